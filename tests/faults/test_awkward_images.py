"""Awkward and hostile files, in a process of little memory: each gives pixels or an ImageError, in bounded time."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vitrail.data.config import ImageLimits

resource = pytest.importorskip("resource", reason="memory limits need a Unix system")

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "awkward-images.tar.gz"
MEMORY = 1 << 30  # bytes of address space, most of it taken by the interpreter and its libraries
SECONDS = 60  # of processor time for all files together, where a few are needed

READ_ALL = """
import json, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
warnings.simplefilter("error")
from vitrail.data import images, jpeg
from vitrail.errors import ImageError
if sys.argv[3] == "pillow":
    jpeg.simplejpeg = None
for line in sys.stdin:
    path, answer = json.loads(line), {}
    try:
        picture = images.open_picture(path)
        answer.update(size=picture.size, format=picture.format)
        pixels = picture.pixels()
        grey = picture.pixels(num_channels=1)
        answer.update(shape=pixels.shape, grey=grey.shape, type=str(pixels.dtype), sum=int(pixels.sum()))
    except ImageError as error:
        answer.update(cause=error.cause, name=error.name)
    print(json.dumps(answer), flush=True)
"""


def read_all(paths: list[Path], decoder: str = "any") -> list[dict]:
    """What a fresh process under limits makes of each file."""
    child = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(MEMORY), str(SECONDS), decoder],
        input="".join(json.dumps(str(path)) + "\n" for path in paths),
        check=False,
        capture_output=True,
        text=True,
        timeout=10 * SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    stopped_at = paths[len(answers)] if len(answers) < len(paths) else None
    assert child.returncode == 0, f"the reader died on {stopped_at}: {child.stderr[-2000:]}"
    return answers


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    if not ARCHIVE.exists():
        pytest.skip("the archive of awkward pictures is not at hand")
    folder = tmp_path_factory.mktemp("awkward")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    (manifest,) = folder.rglob("manifest.csv")
    with manifest.open(newline="") as file:
        return manifest.parent, list(csv.DictReader(file))


# The manifest's second attempt at decoding got these past Pillow; the first attempt fails.
BROKEN_AT_THE_FIRST_ATTEMPT = {
    "pillow/apng/chunk_no_fctl.png",
    "pillow/broken_data_stream.png",
    "pillow/truncated_end_chunk.png",
}


def test_every_awkward_picture_is_read_or_refused_as_the_manifest_says(awkward: tuple) -> None:
    folder, rows = awkward
    assert len(rows) > 200
    limits = ImageLimits()
    for row, answer in zip(rows, read_all([folder / row["path"] for row in rows]), strict=True):
        path, kind = row["path"], {"MPO": "JPEG"}.get(row["format"], row["format"])
        readable = {row["open"], row["load"], row["to_rgb"]} == {"ok"} and path not in BROKEN_AT_THE_FIRST_ATTEMPT
        if not readable or kind not in limits.formats or int(row["width"]) * int(row["height"]) > limits.max_pixels:
            assert answer.get("cause"), path
            assert "\n" not in answer["cause"], path
            assert answer["name"] == str(folder / path)
            continue
        assert "cause" not in answer, (path, answer["cause"])
        height, width = int(row["height"]), int(row["width"])
        if int(row["exif_orientation"] or 1) >= 5 and kind != "TIFF":  # the manifest's TIFF sizes are upright already
            height, width = width, height
        assert answer["format"] == kind, path
        assert answer["size"] == [height, width], path
        assert answer["shape"] == [height, width, 3], path
        assert answer["grey"] == [height, width, 1], path
        assert answer["type"] == "uint8", path


def test_awkward_jpegs_have_the_same_fate_with_and_without_simplejpeg(awkward: tuple) -> None:
    folder, rows = awkward
    paths = [folder / row["path"] for row in rows if row["format"] in ("JPEG", "MPO")]
    assert len(paths) > 20
    assert read_all(paths) == read_all(paths, "pillow")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def ihdr(width: int, height: int, depth: int = 8, color: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


def tiff(*entries: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of (tag, type, count, value or offset) entries."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + tail


TIFF_BASICS = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


def jpeg(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").save(stream, "JPEG", **options)
    return stream.getvalue()


def with_exif(data: bytes, exif: bytes) -> bytes:
    body = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def many_scans() -> bytes:
    """A progressive JPEG of 2,000 scans, the last one again and again."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 2000 + b"\xff\xd9"


def hungry_exif() -> bytes:
    """EXIF of 4,000 tags that all claim the same 10 kB."""
    entries = [(1000 + number, 7, 10_000, 8) for number in range(4000)]
    return tiff(*entries, tail=bytes(10_000))


def hostile_files() -> dict[str, bytes]:
    return {
        "png-text": png(ihdr(8, 8), *[(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 24), 9))] * 200),
        "png-profile": png(ihdr(8, 8), (b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 28), 9))),
        "png-pixels": png(ihdr(8000, 8000), (b"IDAT", zlib.compress(bytes(1 << 20), 9))),
        "gif-screen": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
        "gif-frame": b"GIF89a\1\0\1\0\0\0\0," + struct.pack("<HHHHB", 9, 9, 65000, 65000, 0) + b"\x08",
        "webp-canvas": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
        "webp-lossless": b"RIFF" + struct.pack("<I", 18) + b"WEBPVP8L" + struct.pack("<I", 5) + b"\x2f\xff\xff\xff\x0f",
        "bmp-size": b"BM" + bytes(12) + struct.pack("<IiiHHIIIIII", 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm-size": b"P6 1000000000 1000000000 255\n",
        "ppm-token": b"P6 " + b"9" * 10_000_000,
        "tiff-tags": tiff(*[(1000 + number, 7, 500_000, 8) for number in range(60_000)], tail=bytes(500_000)),
        "tiff-same-tags": tiff(*TIFF_BASICS, *[(320, 7, 700_000, 8), (347, 7, 700_000, 8)], tail=bytes(700_000)),
        "tiff-tile": tiff(*TIFF_BASICS, (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 64)),
        "tiff-strips": tiff(*TIFF_BASICS, (273, 4, 1_000_000, 200), (279, 4, 1_000_000, 200), tail=bytes(8_000_000)),
        "tiff-samples": tiff(*TIFF_BASICS[:-1], (277, 3, 1, 65535), (273, 4, 1, 8), (279, 4, 1, 64)),
        "tiff-loop": b"II*\0" + struct.pack("<I", 4),
        "jpeg-scans": many_scans(),
        "jpeg-size": jpeg().replace(b"\xff\xc0\x00\x0b\x08\x01\x00\x01\x00", b"\xff\xc0\x00\x0b\x08\xff\xff\xff\xff"),
        "jpeg-junk": b"\xff\xd8\xff" + bytes(50_000_000),
        "jpeg-segments": b"\xff\xd8" + b"\xff\xe2\x00\x02" * 5_000_000,
        "jpeg-comments": jpeg()[:2] + b"\xff\xfe\x00\x02" * 20_000 + jpeg()[2:],
    }


def odd_files() -> dict[str, bytes]:
    return {
        "jpeg-exif": with_exif(jpeg(), hungry_exif()[:60_000]),
        "jpeg-exif-loop": with_exif(jpeg(), b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(400)),
        "jpeg-profile": jpeg(icc_profile=bytes(2_000_000)),
        "tiff-odd-tags": tiff(
            *TIFF_BASICS, (273, 4, 1, 0), (279, 4, 1, 64), *[(1000 + n, 7, 500_000, 8) for n in range(5000)]
        ),
    }


def test_hostile_files_are_refused_in_little_memory_and_time(tmp_path: Path) -> None:
    files = hostile_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    answers = dict(zip(files, read_all([tmp_path / name for name in files]), strict=True))
    readable = [name for name, answer in answers.items() if "cause" not in answer]
    assert not readable
    assert "more than 100 scans" in answers["jpeg-scans"]["cause"]
    assert "above the limit" in answers["tiff-tile"]["cause"]
    assert "1000000 strips" in answers["tiff-strips"]["cause"]
    assert "16777216x16777216" in answers["webp-canvas"]["cause"]
    assert "16384x16384" in answers["webp-lossless"]["cause"]
    assert "65535x65535" in answers["jpeg-size"]["cause"]
    assert "claim more data" in answers["tiff-same-tags"]["cause"]


def test_hostile_metadata_does_not_cost_the_picture(tmp_path: Path) -> None:
    files = odd_files()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for decoder in ("any", "pillow"):
        answers = dict(zip(files, read_all([tmp_path / name for name in files], decoder), strict=True))
        assert {name: answer.get("cause") for name, answer in answers.items()} == dict.fromkeys(files)
        assert len({answers[name]["sum"] for name in files if name.startswith("jpeg")}) == 1
