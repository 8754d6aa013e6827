from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from vitrail.data.copies import pairs_by_hash, same_files
from vitrail.data.fingerprints import SIDE, WINDOWS, fingerprint, perceptual_hashes
from vitrail.data.sources import open_source

NUM_COPIED, NUM_OTHERS = 3, 3


def _scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Colours as natural pictures have them, amplitude falling with frequency; different for every seed."""
    generator = np.random.default_rng(seed)
    width, height = size
    far = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width)
    noise = np.fft.fft2(generator.standard_normal((3, height, width))) / np.maximum(far, 1) ** 1.5
    waves = np.fft.ifft2(noise).real.transpose(1, 2, 0)
    return Image.fromarray((127 + 55 * waves / waves.std()).clip(0, 255).astype(np.uint8))


def _scaled(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize(
        (round(share * image.width), round(share * image.height)), Image.Resampling.BICUBIC
    )


def _cut(left: int, top: int, right: int, bottom: int) -> Callable[[Image.Image], Image.Image]:
    """5 % off the edges that are 1."""
    return lambda image: image.crop(
        (
            left * round(0.05 * image.width),
            top * round(0.05 * image.height),
            image.width - right * round(0.05 * image.width),
            image.height - bottom * round(0.05 * image.height),
        )
    )


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "half the size": (_scaled(0.5), "near"),
    "1.7 times the size": (_scaled(1.7), "near"),
    "twice the size": (_scaled(2), "near"),
    "recompressed": (lambda image: image, "near"),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), "near"),
    "cut all around": (_cut(1, 1, 1, 1), "cropped"),
    "cut at the left": (_cut(1, 0, 0, 0), "cropped"),
    "cut at the top": (_cut(0, 1, 0, 0), "cropped"),
    "cut at the right": (_cut(0, 0, 1, 0), "cropped"),
    "cut at the bottom": (_cut(0, 0, 0, 1), "cropped"),
    "cut at a corner": (_cut(1, 1, 0, 0), "cropped"),
    "cut at another corner": (_cut(0, 0, 1, 1), "cropped"),
    "mirrored": (_mirrored, "mirrored"),
    "mirrored and cut": (lambda image: _mirrored(_cut(1, 1, 0, 0)(image)), "mirrored"),
}


def _save(folder: Path, images: list[Image.Image], quality: int = 92) -> None:
    (folder / "a").mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / "a" / f"{number:03d}.jpg", quality=quality)


@pytest.mark.parametrize(("size", "quality"), [((160, 120), 50), ((48, 40), 90)])
def test_every_planted_copy_is_found_from_either_side_and_nothing_else(
    tmp_path: Path, size: tuple[int, int], quality: int
) -> None:
    scenes = [_scene(seed, size) for seed in range(NUM_COPIED + NUM_OTHERS)]
    _save(tmp_path / "originals", scenes)
    planted = [change(scene) for change, _ in CHANGES.values() for scene in scenes[:NUM_COPIED]]
    _save(tmp_path / "copies", [*planted, _scene(99, size)], quality)
    originals, copies = (fingerprint(open_source(str(tmp_path / side))) for side in ("originals", "copies"))
    expected = [(place % NUM_COPIED, place) for place in range(len(planted))]
    found = pairs_by_hash(originals, copies, mirrored=True)
    assert sorted((pair.first, pair.second) for pair in found) == sorted(expected)
    back = pairs_by_hash(copies, originals, mirrored=True)
    assert sorted((pair.second, pair.first) for pair in back) == sorted(expected)
    kinds = [kind for _, kind in CHANGES.values() for _ in range(NUM_COPIED)]
    assert [pair.kind for pair in sorted(found, key=lambda pair: pair.second)] == kinds
    unmirrored = {pair.second for pair in pairs_by_hash(originals, copies)}
    assert unmirrored == {place for place, kind in enumerate(kinds) if kind != "mirrored"}


def test_within_one_set_a_picture_is_no_copy_of_itself_and_equal_files_are_told_once(tmp_path: Path) -> None:
    scenes = [_scene(seed) for seed in range(4)]
    _save(tmp_path, [*scenes, scenes[1], scenes[1], scenes[3].resize((80, 60)), _cut(1, 1, 0, 0)(scenes[2])])
    prints = fingerprint(open_source(str(tmp_path)))
    exact, leaders, _ = same_files(prints, None)
    assert [(pair.first, pair.second) for pair in exact] == [(1, 4), (1, 5)]
    assert leaders.tolist() == [0, 1, 2, 3, 1, 1, 6, 7]
    found = pairs_by_hash(prints, None, mirrored=True)
    assert sorted((pair.first, pair.second) for pair in found) == [(2, 7), (3, 6)]


def test_plain_pictures_are_no_copies_of_one_another(tmp_path: Path) -> None:
    _save(tmp_path, [Image.new("RGB", (64, 64), (shade, 90, 40)) for shade in range(0, 250, 25)])
    prints = fingerprint(open_source(str(tmp_path)))
    assert pairs_by_hash(prints, None) == []


def test_the_same_shapes_in_another_colour_are_another_picture(tmp_path: Path) -> None:
    scene = np.asarray(_scene(3).convert("L"), dtype=np.float32)[..., None]
    inks = np.array([0.9, 0.3, 0.2]), np.array([0.2, 0.3, 0.9])
    _save(tmp_path, [Image.fromarray((scene * ink).astype(np.uint8)) for ink in inks])
    assert pairs_by_hash(fingerprint(open_source(str(tmp_path))), None) == []


def test_handwritten_digits_of_different_people_are_no_copies() -> None:
    assert pairs_by_hash(fingerprint(open_source("digits")), None, mirrored=True) == []


def _stroke(slant: int, thickness: int) -> Image.Image:
    """A handwritten 1, white on black."""
    image = Image.new("RGB", (256, 256))
    ImageDraw.Draw(image).line([(128 + slant, 40), (128 - slant, 216)], fill="white", width=thickness)
    return image.resize((64, 64), Image.Resampling.LANCZOS)


def test_large_pictures_of_strokes_are_no_copies_but_where_they_agree_uncut(tmp_path: Path) -> None:
    strokes = [_stroke(slant, thickness) for slant in (30, 36, 42, 48) for thickness in (24, 28, 32)]
    _save(tmp_path, [*strokes, strokes[5].resize((96, 96), Image.Resampling.BICUBIC)], quality=98)
    found = pairs_by_hash(fingerprint(open_source(str(tmp_path))), None)
    assert [(pair.first, pair.second) for pair in found] == [(5, 12)]


def test_the_mirrored_hash_is_the_hash_of_the_mirrored_pixels() -> None:
    grey = np.random.default_rng(0).uniform(0, 255, (20, SIDE, SIDE)).astype(np.float32)
    _, mirrored = perceptual_hashes(grey)
    hashes, _ = perceptual_hashes(np.ascontiguousarray(grey[:, :, ::-1]))
    symmetric = [place for place, window in enumerate(WINDOWS) if np.isclose(window[2], 1 - window[3])]
    assert np.bitwise_count(mirrored[:, symmetric] ^ hashes[:, symmetric]).max() == 0


def test_the_coefficients_are_those_of_a_cosine_transform() -> None:
    scipy_fft = pytest.importorskip("scipy.fft")
    grey = np.random.default_rng(1).uniform(0, 255, (5, SIDE, SIDE))
    block = scipy_fft.dctn(np.repeat(np.repeat(grey, 16, 1), 16, 2), axes=(1, 2))[:, 1:9, 1:9].reshape(5, 64)
    bits = block > np.median(block, axis=1, keepdims=True)
    expected = [int("".join("01"[bit] for bit in row.astype(int)), 2) for row in bits]
    found = perceptual_hashes(grey.astype(np.float32))[0][:, 0].tolist()
    assert max((one ^ other).bit_count() for one, other in zip(found, expected, strict=True)) <= 2
