"""RandAugment's operations against independent formulas (big_vision's) and against timm's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitrail.data.config import RandAugment
from vitrail.data.randaugment import MONOTONE_OPERATIONS, VIT_OPERATIONS, Canvas, randaugment

NEAREST = Canvas((128, 128, 128), Image.Resampling.NEAREST)
SIGNED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}


def noise(height: int = 40, width: int = 52, channels: int = 3, low: int = 0, high: int = 256) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(7).integers(low, high, shape, dtype=np.uint8)


def smooth(height: int = 40, width: int = 52) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([2 * x + y, 3 * y + 20, 255 - 2 * x - y], -1).clip(0, 255).astype(np.uint8)


def vit(name: str, pixels: np.ndarray, argument: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.asarray(VIT_OPERATIONS[name].apply(Image.fromarray(pixels), argument, NEAREST, generator))


def blend(first: np.ndarray, second: np.ndarray, factor: float) -> np.ndarray:
    """TensorFlow's blend: extrapolated, clipped, cut to whole numbers."""
    return (first + factor * (second.astype(np.float32) - first)).clip(0, 255).astype(np.uint8)


# ---- "vit": levels and formulas


LEVELS = {  # arguments at magnitudes 0, 10, 15, 20
    "Rotate": (0, 30, 45, 60),
    "ShearX": (0, 0.3, 0.45, 0.6),
    "ShearY": (0, 0.3, 0.45, 0.6),
    "TranslateX": (0, 100, 150, 200),
    "TranslateY": (0, 100, 150, 200),
    "Posterize": (0, 4, 6, 8),
    "Solarize": (0, 256, 384, 512),
    "SolarizeAdd": (0, 110, 165, 220),
    "Color": (0.1, 1.9, 2.8, 3.7),
    "Contrast": (0.1, 1.9, 2.8, 3.7),
    "Brightness": (0.1, 1.9, 2.8, 3.7),
    "Sharpness": (0.1, 1.9, 2.8, 3.7),
    "Cutout": (0, 40, 60, 80),
}


def test_vit_has_the_sixteen_operations_with_the_published_levels() -> None:
    assert set(VIT_OPERATIONS) == {*LEVELS, "AutoContrast", "Equalize", "Invert"}
    for name, expected in LEVELS.items():
        operation = VIT_OPERATIONS[name]
        assert [operation.argument(magnitude) for magnitude in (0, 10, 15, 20)] == pytest.approx(expected)
        assert operation.signed == (name in SIGNED)


@pytest.mark.parametrize("channels", [1, 3])
def test_value_operations_are_their_formulas(channels: int) -> None:
    pixels = noise(channels=channels)
    np.testing.assert_array_equal(vit("Invert", pixels, 0), 255 - pixels)
    for bits in (0, 4, 6, 8):
        np.testing.assert_array_equal(vit("Posterize", pixels, bits), pixels >> (8 - bits) << (8 - bits))
    for threshold in (0, 100, 256, 384):
        expected = np.where(pixels.astype(int) < threshold, pixels, 255 - pixels)
        np.testing.assert_array_equal(vit("Solarize", pixels, threshold), expected)
    for added in (0, 110, 220):
        expected = np.where(pixels < 128, np.minimum(pixels.astype(int) + added, 255), pixels)
        np.testing.assert_array_equal(vit("SolarizeAdd", pixels, added), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_histogram_operations_are_their_formulas(channels: int) -> None:
    pixels = noise(channels=channels, low=40, high=190)
    planes = pixels.reshape(40, 52, channels)
    stretched, flattened = np.empty_like(planes), np.empty_like(planes)
    for channel in range(channels):
        plane = planes[..., channel].astype(int)
        low, high = plane.min(), plane.max()
        scale = 255.0 / (high - low)
        stretched[..., channel] = (plane * scale - low * scale).clip(0, 255).astype(np.uint8)
        counts = np.bincount(plane.ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        table = (np.cumsum(counts) + step // 2) // step
        table = np.concatenate([[0], table[:-1]]).clip(0, 255)
        flattened[..., channel] = table[plane]
    np.testing.assert_allclose(vit("AutoContrast", pixels, 0).reshape(planes.shape), stretched, atol=1)
    # The first bin: TensorFlow starts from 0, Pillow from step // 2 over step, which is 0 as well.
    np.testing.assert_array_equal(vit("Equalize", pixels, 0).reshape(planes.shape), flattened)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9, 3.7])
def test_blends_extrapolate_and_clip(factor: float) -> None:
    pixels = noise()
    np.testing.assert_allclose(vit("Brightness", pixels, factor), blend(np.zeros_like(pixels), pixels, factor), atol=1)
    luma = (pixels @ np.array([0.2989, 0.587, 0.114])).round()
    grey = np.repeat(luma[..., None], 3, -1)
    # A step of rounding in the grey grows with the extrapolation.
    np.testing.assert_allclose(vit("Color", pixels, factor), blend(grey, pixels, factor), atol=1 + abs(factor - 1))


def test_contrast_blends_with_the_area_and_not_with_the_mean() -> None:
    for side, constant in ((224, 196), (32, 4), (384, 255)):
        pixels = noise(side, side)
        expected = blend(np.full_like(pixels, constant), pixels, 1.9)
        np.testing.assert_allclose(vit("Contrast", pixels, 1.9), expected, atol=1)
        np.testing.assert_array_equal(vit("Contrast", pixels, 0.0), np.full_like(pixels, constant))


@pytest.mark.parametrize("factor", [0.1, 1.9, 3.7])
def test_sharpness_keeps_the_border(factor: float) -> None:
    pixels = noise().astype(np.float32)
    smoothed = pixels.copy()
    total = sum(pixels[1 + y : 39 + y, 1 + x : 51 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    smoothed[1:-1, 1:-1] = (total + 4 * pixels[1:-1, 1:-1]) / 13
    out = vit("Sharpness", pixels.astype(np.uint8), factor)
    np.testing.assert_allclose(out, blend(smoothed, pixels, factor), atol=1 + abs(factor - 1))
    np.testing.assert_array_equal(out[0], pixels[0])
    np.testing.assert_array_equal(out[:, -1], pixels[:, -1])


def sample(pixels: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The nearest pixel to each (y, x), counted from pixel centres; 128 outside."""
    rows, columns = np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)
    inside = (rows >= 0) & (rows < pixels.shape[0]) & (columns >= 0) & (columns < pixels.shape[1])
    out = np.full_like(pixels, 128)
    out[inside] = pixels[rows[inside], columns[inside]]
    return out


def test_geometry_takes_the_nearest_pixel_and_fills_with_grey() -> None:
    pixels = noise()
    y, x = np.mgrid[0:40, 0:52].astype(float)
    for level in (0.0713, 0.3, -0.4567, 0.5991):  # no level whose multiples end on a half
        np.testing.assert_array_equal(vit("ShearX", pixels, level), sample(pixels, y, x + level * y))
        np.testing.assert_array_equal(vit("ShearY", pixels, level), sample(pixels, y + level * x, x))
    for moved in (0, 10, -33, 100):
        np.testing.assert_array_equal(vit("TranslateX", pixels, moved), sample(pixels, y, x + moved))
        np.testing.assert_array_equal(vit("TranslateY", pixels, moved), sample(pixels, y + moved, x))
    for degrees in (13.0, -30.0, 60.0):
        turn = np.deg2rad(degrees)
        dy, dx = y - 19.5, x - 25.5
        expected = sample(
            pixels, np.sin(turn) * dx + np.cos(turn) * dy + 19.5, np.cos(turn) * dx - np.sin(turn) * dy + 25.5
        )
        agreeing = (vit("Rotate", pixels, degrees) == expected).all(-1).mean()
        assert agreeing > 0.99  # pixels half way between two may fall either way


@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_is_one_grey_square_cut_at_the_border(channels: int) -> None:
    pixels = np.zeros((100, 120, 3), np.uint8) if channels == 3 else np.zeros((100, 120), np.uint8)
    sizes = set()
    for seed in range(40):
        changed = vit("Cutout", pixels, 20, seed).reshape(100, 120, channels)
        assert set(np.unique(changed)) <= {0, 128}
        rows, columns = np.flatnonzero(changed.any((1, 2))), np.flatnonzero(changed.any((0, 2)))
        assert (changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 128).all()
        assert len(rows) <= 40
        assert len(columns) <= 40
        sizes.add((len(rows), len(columns)))
    assert (40, 40) in sizes
    assert min(min(size) for size in sizes) < 40
    np.testing.assert_array_equal(vit("Cutout", pixels, 0), pixels)


# ---- "monotone": against timm

TIMM_NAMES = {
    "Posterize": "PosterizeIncreasing",
    "Solarize": "SolarizeIncreasing",
    "Color": "ColorIncreasing",
    "Contrast": "ContrastIncreasing",
    "Brightness": "BrightnessIncreasing",
    "Sharpness": "SharpnessIncreasing",
    "TranslateX": "TranslateXRel",
    "TranslateY": "TranslateYRel",
}


@pytest.mark.parametrize("name", MONOTONE_OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_monotone_operations_are_those_of_timm(name: str, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("timm.data.auto_augment")
    monkeypatch.setattr(theirs, "_randomly_negate", lambda value: sign * value)
    image = Image.fromarray(smooth())
    operation = MONOTONE_OPERATIONS[name]
    known = TIMM_NAMES.get(name, name)
    for magnitude in (0.0, 3.3, 8.6, 9.0, 10.0):
        if name == "Posterize" and magnitude == 10.0:
            # No bit is left: black. timm asks Pillow for 0 bits, which Pillow 13 refuses.
            black = operation.apply(image, operation.argument(10.0), NEAREST, np.random.default_rng(0))
            assert not np.asarray(black).any()
            continue
        for resampling in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            hparams = {"img_mean": (10, 128, 200), "interpolation": resampling}
            expected = theirs.AugmentOp(known, prob=1.0, magnitude=magnitude, hparams=hparams)(image)
            argument = operation.argument(magnitude) * (sign if operation.signed else 1)
            canvas = Canvas((10, 128, 200), resampling)
            ours = operation.apply(image, argument, canvas, np.random.default_rng(0))
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def test_monotone_has_the_operations_of_timm() -> None:
    theirs = pytest.importorskip("timm.data.auto_augment")
    assert [TIMM_NAMES.get(name, name) for name in MONOTONE_OPERATIONS] == theirs._RAND_INCREASING_TRANSFORMS


# ---- how operations are drawn


@pytest.mark.parametrize(("kind", "rate"), [("vit", 1.0), ("monotone", 0.5)])
def test_operations_are_drawn_uniformly_and_applied_at_their_rate(
    kind: str, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = VIT_OPERATIONS if kind == "vit" else MONOTONE_OPERATIONS
    applied: list[tuple[str, float]] = []
    for name, operation in table.items():

        def note(image: Image.Image, argument: float, *rest: object, name: str = name) -> Image.Image:
            applied.append((name, argument))
            return image

        monkeypatch.setitem(table, name, type(operation)(note, operation.argument, operation.signed))
    image, generator = Image.new("RGB", (2, 2)), np.random.default_rng(0)
    for _ in range(3000):
        randaugment(image, RandAugment(kind, 2, 5.0, 0.0), (1, 2, 3), Image.Resampling.BICUBIC, generator)
    assert abs(len(applied) / 6000 - rate) < 4 * np.sqrt(0.25 / 6000) if rate < 1 else len(applied) == 6000
    counts = np.array([sum(name == one for one, _ in applied) for name in table])
    expected = len(applied) / len(table)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    signs = [argument > 0 for name, argument in applied if name in SIGNED]
    assert 0.45 < np.mean(signs) < 0.55


def test_magnitudes_vary_about_the_mean_and_stay_within_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def note(image: Image.Image, argument: float, *rest: object) -> Image.Image:
        seen.append(argument)
        return image

    for name, operation in MONOTONE_OPERATIONS.items():
        monkeypatch.setitem(MONOTONE_OPERATIONS, name, type(operation)(note, lambda magnitude: magnitude))
    image, generator = Image.new("L", (2, 2)), np.random.default_rng(0)
    for _ in range(2000):
        randaugment(image, RandAugment("monotone", 2, 9.0, 0.5), (128,), Image.Resampling.BICUBIC, generator)
    assert max(seen) == 10.0  # held, where the normal distribution goes beyond
    below = np.array([magnitude for magnitude in seen if magnitude <= 9.0])
    assert abs(len(below) / len(seen) - 0.5) < 0.06
    assert abs(np.sqrt(((below - 9) ** 2).mean()) - 0.5) < 0.05
