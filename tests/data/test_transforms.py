"""Evaluation and training transforms: geometry, agreement with torchvision's and timm's, purity."""

from __future__ import annotations

import colorsys
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrail.data import colors
from vitrail.data.config import Augmentation, Preprocessing, RandAugment
from vitrail.data.images import Picture, open_picture, picture_from_array
from vitrail.data.transforms import (
    TRAINING_MARGIN,
    EvaluationTransform,
    TrainingTransform,
    evaluation_box,
    inception_box,
    resized_crop,
    shift,
    training_crop,
    window_box,
)

FEW = settings(max_examples=60, deadline=None, derandomize=True)
SIDES = st.integers(1, 40) | st.integers(1, 5000)
GREY = {"mean": (0.5,), "std": (0.5,)}


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """Structure at all scales, as photographs have: noise summed over octaves."""
    total = np.zeros((height, width, 3))
    for octave in range(1, 8):
        coarse = Image.fromarray(noise(2**octave, 2**octave, seed=octave)).resize((width, height), Image.BICUBIC)
        total += (np.asarray(coarse).astype(float) - 128) * 0.7**octave
    return (128 + 1.2 * total).clip(0, 255).astype(np.uint8)


def jpeg_picture(pixels: np.ndarray) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return open_picture(stream.getvalue())


def everything(kind: str, **changes: object) -> Augmentation:
    options: dict = {
        "randaugment": RandAugment(kind, 3, 12.0 if kind == "vit" else 9.0, 0.5),
        "color_jitter_rate": 0.8,
        "grayscale_rate": 0.3,
        "blur_rate": 0.5,
        "solarize_rate": 0.3,
    }
    return Augmentation(**{**options, **changes})


# ---- evaluation


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "fraction"), [(64, 1.0), (64, 0.9), (48, 0.875), (33, 0.95)])
def test_short_side_and_centre_crop_are_those_of_timm(interpolation: str, size: int, fraction: float) -> None:
    timm_data = pytest.importorskip("timm.data")
    theirs = timm_data.create_transform(
        (3, size, size), interpolation=interpolation, crop_pct=fraction, mean=(0, 0, 0), std=(1, 1, 1)
    )
    ours = EvaluationTransform(Preprocessing((size, size), "crop", fraction, interpolation))
    for height, width in ((100, 100), (90, 131), (131, 90), (97, 211), (20, 31), (65, 64), (300, 40)):
        pixels = photo(height, width)
        expected = (theirs(Image.fromarray(pixels)).numpy() * 255).round().astype(int)
        # One resize of a box instead of a resize and a crop: the weights differ in their last bits alone.
        assert np.abs(ours(picture_from_array(pixels, "photo")).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squash_is_a_plain_antialiased_resize(interpolation: str) -> None:
    pixels = photo(75, 133)
    ours = EvaluationTransform(Preprocessing((40, 56), "squash", 0.5, interpolation))
    resampling = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[interpolation]
    expected = np.asarray(Image.fromarray(pixels).resize((56, 40), resampling)).transpose(2, 0, 1)
    np.testing.assert_array_equal(ours(picture_from_array(pixels, "photo")), expected)


@FEW
@given(SIDES, SIDES, st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1), st.sampled_from(["crop", "squash"]))
def test_the_evaluation_box_lies_inside_the_picture_and_keeps_its_centre(
    height: int, width: int, target_height: int, target_width: int, fraction: float, resize: str
) -> None:
    preprocessing = Preprocessing((target_height, target_width), resize, fraction)
    left, top, right, bottom = evaluation_box((height, width), preprocessing)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # The crop starts at a whole pixel of the resized picture: at most one of those off the centre.
    assert abs(left + right - width) <= 1.01 * (right - left) / target_width + 1e-6
    assert abs(top + bottom - height) <= 1.01 * (bottom - top) / target_height + 1e-6


def test_a_jpeg_decoded_smaller_evaluates_to_nearly_the_same_pixels() -> None:
    pixels = photo(640, 480)
    picture = jpeg_picture(pixels)
    full = picture_from_array(picture.pixels(), "full size")
    for size, tolerance in ((96, 0.3), (32, 1.0)):
        ours = EvaluationTransform(Preprocessing((size, size)))
        assert picture.pixels((2 * size, 2 * size)).shape[0] < 640
        difference = ours(picture).astype(int) - ours(full)
        assert np.abs(difference).mean() < tolerance


def test_evaluation_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    EvaluationTransform(Preprocessing((8, 8)))(picture_from_array(noise(9, 9), "noise"), generator)
    assert generator.bit_generator.state == before


# ---- the random box


@FEW
@given(SIDES, SIDES, st.floats(0.01, 1), st.floats(0.2, 1), st.integers(0, 2**32))
def test_the_inception_box_lies_inside_the_picture(
    height: int, width: int, low_area: float, low_aspect: float, seed: int
) -> None:
    left, top, right, bottom = inception_box(
        (height, width), (low_area, 1.0), (low_aspect, 1 / low_aspect), np.random.default_rng(seed)
    )
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert all(float(edge).is_integer() for edge in (left, top, right, bottom))


def test_inception_boxes_have_the_asked_areas_and_aspects() -> None:
    generator = np.random.default_rng(0)
    boxes = np.array([inception_box((1000, 1200), (0.05, 0.6), (0.75, 4 / 3), generator) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / 1.2e6, width / height
    assert 0.049 <= area.min() < area.max() <= 0.601
    assert 0.745 <= aspect.min() < aspect.max() <= 1.342
    # Uniform area and log-uniform aspect: means of 0.325 and 0, four standard errors wide.
    assert abs(area.mean() - 0.325) < 4 * 0.55 / np.sqrt(12 * 4000)
    assert abs(np.log(aspect).mean()) < 4 * 2 * np.log(4 / 3) / np.sqrt(12 * 4000)
    np.testing.assert_allclose(boxes[:, 0].mean(), ((1200 - width) / 2).mean(), atol=15)


def test_a_strip_too_narrow_for_any_box_gives_its_middle() -> None:
    generator = np.random.default_rng(0)
    assert inception_box((10, 5000), (0.9, 1.0), (0.75, 4 / 3), generator) == (2493, 0, 2506, 10)
    assert inception_box((5000, 1), (0.9, 1.0), (0.75, 4 / 3), generator) == (0, 2499, 1, 2500)


@FEW
@given(height=SIDES, width=SIDES, share=st.floats(0.01, 1.0), seed=st.integers(0, 9))
def test_a_window_has_its_share_of_both_sides_and_lies_inside(height: int, width: int, share: float, seed: int) -> None:
    left, top, right, bottom = window_box((height, width), share, np.random.default_rng(seed))
    assert (right - left, bottom - top) == pytest.approx((share * width, share * height))
    assert min(left, top) >= 0
    assert right <= width * (1 + 1e-12)
    assert bottom <= height * (1 + 1e-12)


def test_windows_reach_every_corner_and_are_cut_from_the_picture() -> None:
    pixels = np.zeros((70, 70, 3), np.uint8)
    pixels[:, 35:] = 255
    transform = TrainingTransform(
        Preprocessing(image_size=(60, 60)), Augmentation(crop="window", window_share=6 / 7, flip_rate=0.0)
    )
    picture, generator = picture_from_array(pixels, "a"), np.random.default_rng(0)
    edges = [int((transform(picture, generator)[0, 30] > 127).argmax()) for _ in range(200)]
    assert min(edges) == 25
    assert max(edges) == 35


def test_a_crop_is_the_same_part_of_the_picture_at_every_decoded_scale() -> None:
    picture = jpeg_picture(photo(512, 640))
    full = picture_from_array(picture.pixels(), "full size")
    preprocessing = Preprocessing((32, 32))
    for box in ((0, 0, 640, 512), (100, 60, 500, 480), (333, 100, 640, 370)):
        assert picture.image((40, 40)).size < (640, 512)
        ours, expected = (np.asarray(resized_crop(one, box, preprocessing, 1.0)).astype(int) for one in (picture, full))
        shifted = np.roll(expected, 1, axis=1)
        assert np.abs(ours - expected).mean() < 0.4 * np.abs(shifted - expected).mean()


# ---- training


def test_training_without_any_augmentation_is_evaluation() -> None:
    preprocessing = Preprocessing((24, 20), crop_fraction=0.9)
    picture = picture_from_array(photo(50, 60), "photo")
    plain = TrainingTransform(preprocessing, Augmentation(crop="evaluation", flip_rate=0.0))
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    np.testing.assert_array_equal(plain(picture, generator), EvaluationTransform(preprocessing)(picture, generator))
    assert generator.bit_generator.state == before


def test_a_flip_is_left_right_and_happens_at_its_rate() -> None:
    preprocessing = Preprocessing((8, 8))
    picture = picture_from_array(noise(8, 8), "noise")
    plain = EvaluationTransform(preprocessing)(picture)
    always = TrainingTransform(preprocessing, Augmentation(crop="evaluation", flip_rate=1.0))
    np.testing.assert_array_equal(always(picture, np.random.default_rng(0)), plain[:, :, ::-1])
    often = TrainingTransform(preprocessing, Augmentation(crop="evaluation", flip_rate=0.3))
    generator = np.random.default_rng(0)
    flipped = sum(not np.array_equal(often(picture, generator), plain) for _ in range(500))
    assert abs(flipped / 500 - 0.3) < 4 * np.sqrt(0.21 / 500)


@pytest.mark.parametrize(("down", "across"), [(0, 0), (1, 0), (0, -2), (-1, 2), (3, 3)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_shift_leaves_black(down: int, across: int, mode: str) -> None:
    shape = (4, 5) if mode == "L" else (4, 5, 3)
    pixels = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    padded = np.pad(pixels, [(3, 3), (3, 3)] + [(0, 0)] * (len(shape) - 2))
    expected = padded[3 - down : 7 - down, 3 - across : 8 - across]
    np.testing.assert_array_equal(np.asarray(shift(Image.fromarray(pixels), down, across)), expected)


def test_shifts_reach_every_offset_up_to_the_greatest_and_no_other() -> None:
    pixels = noise(8, 8, channels=1)
    transform = TrainingTransform(Preprocessing((8, 8), **GREY), Augmentation(crop="shift", max_shift=1, flip_rate=0.0))
    generator = np.random.default_rng(0)
    seen = {transform(picture_from_array(pixels, "noise"), generator).tobytes() for _ in range(200)}
    image = Image.fromarray(pixels)
    expected = {np.asarray(shift(image, down, across)).tobytes() for down in (-1, 0, 1) for across in (-1, 0, 1)}
    assert seen == expected
    assert len(expected) == 9


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from(["vit", "monotone"]),
    st.sampled_from(["inception", "shift", "evaluation"]),
    st.integers(0, 2**63),
)
def test_training_is_a_pure_function_of_picture_and_generator(
    height: int, width: int, rows: int, columns: int, channels: int, kind: str, crop: str, seed: int
) -> None:
    preprocessing = Preprocessing((rows, columns), **(GREY if channels == 1 else {}))
    transform = TrainingTransform(preprocessing, everything(kind, crop=crop, max_shift=2))
    picture = picture_from_array(noise(height, width, channels), "noise")
    generators = [np.random.default_rng(seed) for _ in range(2)]
    first, second = (transform(picture, generator) for generator in generators)
    assert first.tobytes() == second.tobytes()
    assert generators[0].bit_generator.state == generators[1].bit_generator.state
    assert first.shape == (channels, rows, columns)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert pickle.loads(pickle.dumps(transform))(picture, np.random.default_rng(seed)).tobytes() == first.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_narrowest_pictures_pass_through_everything(shape: tuple[int, int], channels: int) -> None:
    preprocessing = Preprocessing((16, 16), crop_fraction=0.9, **(GREY if channels == 1 else {}))
    picture = picture_from_array(noise(*shape), "narrow")
    assert EvaluationTransform(preprocessing)(picture).shape == (channels, 16, 16)
    for kind in ("vit", "monotone"):
        for seed in range(10):
            out = TrainingTransform(preprocessing, everything(kind))(picture, np.random.default_rng(seed))
            assert out.shape == (channels, 16, 16)


# ---- colours


def test_jitter_of_one_kind_is_its_formula() -> None:
    pixels = noise(20, 20)
    luma = np.asarray(Image.fromarray(pixels).convert("L")).astype(float)
    base = pixels.astype(float)
    degenerate = (np.zeros_like(base), np.full_like(base, int(luma.mean() + 0.5)), np.repeat(luma[..., None], 3, 2))
    for index, from_image in enumerate(degenerate):
        strengths = [0.0] * 4
        strengths[index] = 0.5
        generator = np.random.default_rng(index)
        twin = np.random.default_rng(index)
        twin.permutation(4)
        factor = [twin.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]][index]
        out = np.asarray(colors.jitter_colors(Image.fromarray(pixels), tuple(strengths), generator))
        np.testing.assert_allclose(out, (from_image + factor * (base - from_image)).clip(0, 255), atol=1.01)


def test_turning_the_hue_keeps_saturation_and_value() -> None:
    pixels = noise(6, 6)
    out = np.asarray(colors.turn_hue(Image.fromarray(pixels), 0.25)) / 255
    for before, after in zip(pixels.reshape(-1, 3) / 255, out.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation, value), atol=0.06)
    # 8-bit hue costs that much; torchvision's Pillow path has the same steps.
    theirs = pytest.importorskip("torchvision.transforms.functional")
    for share in (0.25, -0.13, 0.5):
        expected = np.asarray(theirs.adjust_hue(Image.fromarray(pixels), share))
        np.testing.assert_array_equal(np.asarray(colors.turn_hue(Image.fromarray(pixels), share)), expected)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (
            {"grayscale_rate": 1.0},
            lambda pixels: np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[None], 3, 0),
        ),
        ({"solarize_rate": 1.0}, lambda pixels: np.where(pixels < 128, pixels, 255 - pixels).transpose(2, 0, 1)),
    ],
)
def test_grey_and_solarize_are_their_formulas(change: dict, law: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels = noise(12, 12)
    transform = TrainingTransform(Preprocessing((12, 12)), Augmentation(crop="evaluation", flip_rate=0.0, **change))
    out = transform(picture_from_array(pixels, "noise"), np.random.default_rng(0))
    np.testing.assert_array_equal(out, law(pixels))


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    point = np.zeros((41, 41), np.uint8)
    point[18:23, 18:23] = 255
    out = np.asarray(colors.blur(Image.fromarray(point), (2.0, 2.0), np.random.default_rng(0))).astype(float)
    columns = np.arange(41) - 20
    weights = out.sum(0) / out.sum()
    # Variances add: of five equal columns 2, of the Gaussian 4. Three box filters come close to it.
    assert abs((weights * columns**2).sum() - 6) < 0.5
    np.testing.assert_allclose(out, out.T, atol=1)


# ---- the fast way of training crops


@FEW
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    target=st.tuples(st.integers(128, 180), st.integers(128, 180)),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 99),
)
def test_a_training_crop_is_torchvisions_bit_for_bit(
    size: tuple[int, int], target: tuple[int, int], interpolation: str, seed: int
) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    pixels = noise(*size, seed=seed)
    left, top, right, bottom = (
        int(edge) for edge in inception_box(size, (0.08, 1.0), (0.75, 4 / 3), np.random.default_rng(seed))
    )
    ours = training_crop(
        picture_from_array(pixels, "noise"),
        (left, top, right, bottom),
        Preprocessing(target, interpolation=interpolation),
    )
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    theirs = v2.functional.resized_crop(
        image, top, left, bottom - top, right - left, list(target), v2.InterpolationMode(interpolation), antialias=True
    )
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_training_crop_is_within_a_level_of_pillows_inside_the_box(interpolation: str) -> None:
    picture = picture_from_array(noise(300, 340), "noise")
    preprocessing = Preprocessing((224, 192), interpolation=interpolation)
    box = (17, 30, 317, 280)
    fast = training_crop(picture, box, preprocessing).astype(int)
    exact = np.asarray(resized_crop(picture, box, preprocessing, 1.0)).transpose(2, 0, 1).astype(int)
    assert np.abs(fast - exact)[:, 3:-3, 3:-3].max() <= 1
    alone = Image.fromarray(noise(300, 340)[30:280, 17:317]).resize((192, 224), getattr(Image, interpolation.upper()))
    assert np.abs(fast - np.asarray(alone).transpose(2, 0, 1)).max() <= (1 if interpolation == "bilinear" else 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_results_and_fractional_boxes_keep_pillows_pixels(channels: int) -> None:
    picture = jpeg_picture(photo(200, 300))
    colours = {} if channels == 3 else GREY
    for size, box in (((120, 120), (5, 6, 205, 190)), ((224, 224), (5.5, 6, 205, 190))):
        preprocessing = Preprocessing(size, **colours)
        result = training_crop(picture, box, preprocessing)
        assert isinstance(result, Image.Image)
        np.testing.assert_array_equal(result, resized_crop(picture, box, preprocessing, TRAINING_MARGIN))


@pytest.mark.parametrize("colours", [{}, GREY], ids=["colour", "grey"])
def test_the_fast_way_goes_on_with_every_other_augmentation(colours: dict) -> None:
    picture = jpeg_picture(photo(200, 300))
    preprocessing = Preprocessing((160, 130), **colours)
    plain = TrainingTransform(preprocessing, Augmentation(flip_rate=0.0))(picture, np.random.default_rng(0))
    flipped = TrainingTransform(preprocessing, Augmentation(flip_rate=1.0))(picture, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    assert flipped.flags.c_contiguous
    assert flipped.flags.writeable
    # Of rate 1, so that what is drawn before is what is drawn without.
    solarized = TrainingTransform(preprocessing, Augmentation(flip_rate=0.0, solarize_rate=1.0))
    expected = np.where(plain < 128, plain, 255 - plain)
    np.testing.assert_array_equal(solarized(picture, np.random.default_rng(0)), expected)
