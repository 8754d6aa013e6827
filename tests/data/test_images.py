"""The guarded reader: what a file's pixels are, and what is refused instead."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vitrail.data import jpeg
from vitrail.data.config import ImageLimits
from vitrail.data.images import open_picture, picture_from_array
from vitrail.errors import ImageError

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def photo(height: int = 60, width: int = 90, channels: int = 3) -> np.ndarray:
    """Smooth gradients with some texture: compresses like a photograph."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / (7 + c) + c) * np.cos(y / (9 - c)) for c in range(channels)]
    pixels = np.stack(waves, -1).clip(0, 255).astype(np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def orientation_exif(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_back_the_pixels_they_were_given(kind: str) -> None:
    pixels = photo()
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = open_picture(encode(pixels, kind, **options))
    assert (picture.size, picture.format) == ((60, 90), kind)
    np.testing.assert_array_equal(picture.pixels(), pixels)
    np.testing.assert_array_equal(
        picture.pixels(num_channels=1)[:, :, 0], np.asarray(Image.fromarray(pixels).convert("L"))
    )


def test_a_path_its_bytes_and_its_stream_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "é \n photo.jpg"
    path.write_bytes(encode(photo(), "JPEG"))
    with path.open("rb") as stream:
        pictures = [open_picture(path), open_picture(str(path)), open_picture(path.read_bytes()), open_picture(stream)]
    assert pictures[0].name == str(path)
    for picture in pictures:
        np.testing.assert_array_equal(picture.pixels(), pictures[0].pixels())


def test_pixels_are_fresh_and_writable_each_time() -> None:
    picture = picture_from_array(photo(), "made up")
    for channels in (1, 3):
        first = picture.pixels(num_channels=channels)
        second = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(picture.pixels(num_channels=channels), second)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_as_pillow_applies_it(kind: str, value: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(photo(), kind, exif=orientation_exif(value), **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = open_picture(data)
    assert picture.size == expected.shape[:2]
    np.testing.assert_array_equal(picture.pixels(), expected)


def test_a_turned_jpeg_is_decoded_at_the_scale_that_covers_the_upright_need() -> None:
    picture = open_picture(encode(photo(400, 160), "JPEG", exif=orientation_exif(6)))
    assert picture.size == (160, 400)
    assert picture.pixels((40, 100)).shape == (40, 100, 3)
    assert picture.pixels((41, 100)).shape == (80, 200, 3)


@FEW
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 400), st.integers(1, 400), st.sampled_from(["RGB", "L"])
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_what_is_needed(
    height: int, width: int, least_height: int, least_width: int, mode: str
) -> None:
    picture = open_picture(encode(Image.new(mode, (width, height), "gray"), "JPEG"))
    decoded = picture.pixels((least_height, least_width)).shape[:2]
    sizes = {factor: (-(-height // factor), -(-width // factor)) for factor in (1, 2, 4, 8)}
    (factor,) = [f for f, size in sizes.items() if size == decoded] if decoded != (height, width) else (1,)
    assert factor == 1 or (decoded[0] >= least_height and decoded[1] >= least_width)
    if factor < 8 and min(sizes[factor * 2]) >= 16:
        smaller = sizes[factor * 2]
        assert smaller[0] < least_height or smaller[1] < least_width


JPEG_KINDS = {
    "420": {"quality": 85},
    "444": {"subsampling": 0},
    "422": {"subsampling": 1},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("name", JPEG_KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_simplejpeg_and_pillow_decode_the_same_pixels_at_every_scale(
    name: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if jpeg.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    data = encode(photo(203, 317, channels), "JPEG", **JPEG_KINDS[name])
    picture = open_picture(data)
    needs = [None, (100, 150), (50, 75), (20, 30)]
    fast = [picture.pixels(need) for need in needs]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    for need, pixels in zip(needs, fast, strict=True):
        slow = picture.pixels(need)
        assert slow.shape == pixels.shape
        # Equal with the versions in constraints.txt; two steps are what the reader's docstring allows for others.
        assert np.abs(slow.astype(int) - pixels).max() <= 2
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(picture.pixels(), reference)


def test_metadata_never_changes_the_pixels_of_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_picture(encode(photo(), "JPEG"))
    loaded = open_picture(
        encode(photo(), "JPEG", exif=orientation_exif(1) + bytes(5000), comment=b"x" * 9000, icc_profile=b"p" * 200_000)
    )
    np.testing.assert_array_equal(loaded.pixels(), plain.pixels())
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    np.testing.assert_array_equal(loaded.pixels(), plain.pixels())


def test_cmyk_and_rgb_coded_jpegs_are_read_as_pillow_reads_them() -> None:
    cmyk = encode(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95)
    picture = open_picture(cmyk)
    assert picture.mode == "CMYK"
    np.testing.assert_array_equal(picture.pixels(), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))
    rgb = encode(photo(), "JPEG", keep_rgb=True, quality=95)
    np.testing.assert_array_equal(open_picture(rgb).pixels(), np.asarray(Image.open(io.BytesIO(rgb))))
    assert np.abs(open_picture(rgb).pixels().astype(int) - photo()).mean() < 3


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.round(values / 257).astype(np.uint8)
    big_endian = b"P5 64 64 65535\n" + values.astype(">u2").tobytes()
    for data in (encode(values, "PNG"), encode(values, "TIFF"), big_endian):
        np.testing.assert_array_equal(open_picture(data).pixels(num_channels=1)[:, :, 0], expected)


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 16 * 16 * 3).astype(np.uint16).reshape(16, 16, 3)
    data = b"P6 16 16 65535\n" + values.astype(">u2").tobytes()
    assert np.abs(open_picture(data).pixels().astype(float) - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("low", "high", "kind", "scale", "offset"),
    [
        (0, 1, np.float32, 255, 0),
        (0, 200, np.float32, 1, 0),
        (0, 40_000, np.float32, 1 / 257, 0),
        (-3, 7, np.float32, 25.5, 3),
        (0, 255, np.int32, 1, 0),
        (0, 60_000, np.int32, 1 / 257, 0),
        (-1000, 1_000_000, np.int32, 255 / 1_001_000, 1000),
    ],
)
def test_grey_of_unknown_range_takes_the_smallest_usual_range_that_holds_it(
    low: float, high: float, kind: type, scale: float, offset: float
) -> None:
    values = np.linspace(low, high, 1024).astype(kind).reshape(32, 32)
    pixels = open_picture(encode(values, "TIFF")).pixels(num_channels=1)[:, :, 0]
    np.testing.assert_allclose(pixels, (values.astype(float) + offset) * scale, atol=0.51)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = np.nan
    with pytest.raises(ImageError, match="not finite"):
        open_picture(encode(values, "TIFF"), "nan.tif").pixels()


def test_transparency_of_every_kind_is_laid_on_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:2, :, 3] = 255
    pixels[2, :, 3] = 128
    rgba = Image.fromarray(pixels)
    expected = np.array([[200, 0, 0], [200, 0, 0], [227, 127, 127], [255, 255, 255]])
    for data in (encode(rgba, "PNG"), encode(rgba, "TIFF"), encode(rgba, "WEBP", lossless=True, exact=True)):
        np.testing.assert_allclose(open_picture(data).pixels()[:, 0], expected, atol=1)
    np.testing.assert_allclose(picture_from_array(pixels, "array").pixels()[:, 0], expected, atol=1)
    grey = encode(rgba.convert("LA"), "PNG")
    np.testing.assert_allclose(open_picture(grey).pixels(num_channels=1)[:, 0, 0], [60, 60, 157, 255], atol=1)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(
            open_picture(encode(palette, kind, transparency=1)).pixels()[0], [[10, 20, 30], [255, 255, 255]]
        )
    one_colour = encode(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (open_picture(one_colour).pixels() == 255).all()
    one_grey = encode(np.full((2, 2), 500, np.uint16), "PNG", transparency=500)
    assert (open_picture(one_grey).pixels() == 255).all()


def test_bilevel_palette_and_lab_become_rgb() -> None:
    bilevel = Image.fromarray(photo(channels=1) > 128)
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        np.testing.assert_array_equal(open_picture(encode(bilevel, kind)).pixels()[:, :, 1], np.asarray(bilevel) * 255)
    palette = Image.fromarray(photo()).quantize(64)
    np.testing.assert_array_equal(open_picture(encode(palette, "PNG")).pixels(), np.asarray(palette.convert("RGB")))
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert np.abs(open_picture(encode(lab, "TIFF")).pixels().astype(int) - 255).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(open_picture(data).pixels(), np.asarray(frames[0]))


def png_header(width: int, height: int) -> bytes:
    """A one-bit PNG that is honest about its size and all zeros: some 10 kB for 81 megapixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
            chunk(b"IDAT", rows),
            chunk(b"IEND", b""),
        ]
    )


def test_a_small_file_of_81_megapixels_is_refused_from_its_header() -> None:
    data = png_header(9000, 9000)
    assert len(data) < 10_100
    with pytest.raises(ImageError, match=r"bomb.png: 9000x9000 = 81 megapixels, above the limit of 64 megapixels"):
        open_picture(data, "bomb.png")
    with pytest.raises(ImageError, match="megapixels"):
        open_picture(data[:60], "the header alone")
    assert open_picture(data, limits=ImageLimits(max_pixels=81_000_000)).size == (9000, 9000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_limits_hold_for_every_format(kind: str) -> None:
    data = encode(photo(30, 40), kind)
    assert open_picture(data, limits=ImageLimits(max_pixels=1200, max_bytes=len(data))).size == (30, 40)
    with pytest.raises(ImageError, match="megapixels"):
        open_picture(data, limits=ImageLimits(max_pixels=1199))
    with pytest.raises(ImageError, match="above the limit of"):
        open_picture(data, limits=ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(ImageError, match="not among the allowed formats"):
        open_picture(data, limits=ImageLimits(formats=("PNG",) if kind != "PNG" else ("JPEG",)))


def test_a_stream_is_not_read_beyond_the_limit() -> None:
    class Endless(io.RawIOBase):
        served = 0

        def read(self, size: int = -1) -> bytes:
            self.served += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(ImageError, match="above the limit"):
        open_picture(stream, limits=ImageLimits(max_bytes=1000))
    assert stream.served <= 1001


def test_other_formats_open_only_when_they_are_allowed() -> None:
    icon = encode(photo(16, 16), "ICO")
    with pytest.raises(ImageError, match="ICO is not among the allowed formats JPEG, PNG"):
        open_picture(icon)
    assert open_picture(icon, limits=ImageLimits(formats=("ICO",))).pixels().shape == (16, 16, 3)
    targa = encode(photo(16, 16), "TGA")  # it has no magic bytes, so Pillow must recognise it
    np.testing.assert_array_equal(open_picture(targa, limits=ImageLimits(formats=("TGA",))).pixels(), photo(16, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_truncated_picture_is_refused_whole(kind: str) -> None:
    data = encode(photo(), kind)
    for length in (len(data) // 2, len(data) - 60 if kind != "TIFF" else 200, 30, 5):
        with pytest.raises(ImageError):
            open_picture(data[:length], "cut").pixels()


def test_what_is_no_picture_is_refused_by_name_and_cause(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    with pytest.raises(ImageError) as caught:
        open_picture(text)
    assert caught.value.name == str(text)
    assert caught.value.cause == "not a picture of a known format (it begins with b'not a pictur')"
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(ImageError, match="empty file"):
        open_picture(empty)
    with pytest.raises(ImageError, match="no such file"):
        open_picture(tmp_path / "absent.png")
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    with pytest.raises(ImageError, match="symbolic links"):
        open_picture(loop)
    with pytest.raises(ImageError):
        open_picture("nul\0byte.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_devices_and_folders_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero"), Path("/dev/stdin")):
        if path.exists() and not path.is_file():
            with pytest.raises(ImageError, match="not a regular file"):
                open_picture(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused_by_cause(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(photo(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="permission denied"):
        open_picture(path)


SEEDS = {
    kind: encode(photo(24, 20), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
} | {
    "turned": encode(photo(24, 20), "JPEG", exif=orientation_exif(6), progressive=True),
    "palette": encode(Image.fromarray(photo(24, 20)).quantize(16), "PNG"),
    "deflated": encode(photo(24, 20), "TIFF", compression="tiff_adobe_deflate"),
    "tiled": encode(photo(24, 20), "TIFF", exif=orientation_exif(5)),
}  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_a_damaged_file_gives_pixels_or_an_image_error_and_never_a_warning(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(SEEDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        # Most draws hit the header, where the interesting claims are.
        position = data.draw(st.integers(0, min(len(damaged) - 1, data.draw(st.sampled_from([40, 200, 100_000])))))
        damaged[position] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 254, 255]) | st.integers(0, 255))
    limits = ImageLimits(max_pixels=1_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = open_picture(bytes(damaged), "damaged", limits)
            pixels = picture.pixels()
        except ImageError as caught:
            error = caught
        else:
            assert pixels.shape == (*picture.size, 3)
            assert pixels.dtype == np.uint8
            return
    assert error.name == "damaged"
    assert error.cause
    assert "\n" not in error.cause
    assert len(error.cause) < 200


def test_threads_keep_warnings_in_and_leave_the_filters_as_they_were() -> None:
    odd = bytearray(encode(photo(24, 20), "PNG"))
    chunk = struct.pack(">I", 8) + b"acTL" + bytes(8)  # no frames: Pillow warns
    odd[33:33] = chunk + struct.pack(">I", zlib.crc32(chunk[4:]))
    filters = list(warnings.filters)
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(bytes(odd))).load()
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(lambda _: open_picture(bytes(odd)).pixels().shape, range(200)))
    assert set(shapes) == {(24, 20, 3)}
    assert list(warnings.filters) == filters


def test_arrays_of_other_types_and_shapes_are_refused() -> None:
    for wrong in (np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="sample 7"):
            picture_from_array(wrong, "sample 7")
    with pytest.raises(ValueError, match="num_channels 2"):
        picture_from_array(photo(), "array").pixels(num_channels=2)
    grey = photo(channels=1)
    for shape in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(picture_from_array(shape, "grey").pixels(num_channels=1)[:, :, 0], grey)


# ---- JPEGs of which only the upper rows are decoded

SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 70)),
    sampling=st.sampled_from([*SAMPLINGS.values(), "4:4:0", "4:1:1"]),
    restarts=st.sampled_from([{}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}]),
    kind=st.sampled_from([{}, {}, {"progressive": True}, {"optimize": True}]),
    orientation=st.sampled_from([1, 1, 1, 2, 3, 6, 8]),
    quality=st.sampled_from([30, 75, 98]),
    data=st.data(),
)
def test_a_region_is_cut_from_the_pixels_of_the_whole_bit_for_bit(
    size: tuple[int, int],
    sampling: int | str,
    restarts: dict[str, int],
    kind: dict[str, bool],
    orientation: int,
    quality: int,
    data: st.DataObject,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = {"subsampling": sampling, "quality": quality, "exif": orientation_exif(orientation), **restarts, **kind}
    if isinstance(sampling, str):  # Pillow writes neither
        simplejpeg = pytest.importorskip("simplejpeg")
        encoded = simplejpeg.encode_jpeg(noise, quality, colorsubsampling=sampling.replace(":", ""))
    else:
        encoded = encode(noise, "JPEG", **options)
    picture = open_picture(encoded)
    height, width = picture.size
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    for channels in (1, 3):
        whole = picture.pixels(num_channels=channels)
        np.testing.assert_array_equal(
            picture.region((left, top, right, bottom), channels), whole[top:bottom, left:right]
        )


def test_decoding_stops_early_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    heights = []

    def decode(data: bytes, *arguments: object, **options: object) -> np.ndarray:
        heights.append(simplejpeg.decode_jpeg_header(data)[0])
        return simplejpeg.decode_jpeg(data, *arguments, **options)

    monkeypatch.setattr(jpeg, "simplejpeg", SimpleNamespace(**{**vars(simplejpeg), "decode_jpeg": decode}))
    for options in ({}, {"restart_marker_rows": 2}, {"progressive": True}):
        open_picture(encode(photo(160, 40), "JPEG", **options)).region((0, 10, 5, 31))
    assert heights == [32, 32, 160]  # rows of 16; the last file has to be read whole


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}], ids=["plain", "restarts"])
def test_a_truncated_jpeg_is_refused_whatever_part_is_wanted(options: dict[str, int]) -> None:
    data = encode(photo(160, 40), "JPEG", **options)
    assert open_picture(data).region((0, 0, 40, 8)).shape == (8, 40, 3)
    for cut in (len(data) // 2, len(data) - 40, len(data) - 3):
        with pytest.raises(ImageError, match="truncated"):
            open_picture(data[:cut], "cut").pixels()
        with pytest.raises(ImageError, match="truncated"):
            open_picture(data[:cut], "cut").region((0, 0, 40, 8))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damage_above_the_wanted_rows_has_the_same_fate_as_in_the_whole(data: st.DataObject) -> None:
    sound = encode(photo(64, 48), "JPEG", **data.draw(st.sampled_from([{}, {"restart_marker_rows": 1}])))
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(sound) - 3))] = data.draw(st.sampled_from([0, 1, 128, 217, 254, 255]))
    try:
        picture = open_picture(bytes(damaged), "damaged", ImageLimits(max_pixels=1_000_000))
        whole = picture.pixels()
    except ImageError:
        return  # of a file that is damaged below, the part may still be good
    height, width = picture.size
    bottom = data.draw(st.integers(1, height))
    np.testing.assert_array_equal(picture.region((0, 0, width, bottom)), whole[:bottom])


def test_a_region_of_a_picture_in_memory_is_cut_from_it() -> None:
    pixels = photo(30, 20)
    for channels, part in (
        (3, pixels[5:9, 2:7]),
        (1, np.asarray(Image.fromarray(pixels).convert("L"))[5:9, 2:7, None]),
    ):
        np.testing.assert_array_equal(picture_from_array(pixels, "a").region((2, 5, 7, 9), channels), part)
