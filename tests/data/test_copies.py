from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vitrail.data.copies import pairs_by_hash, same_files
from vitrail.data.fingerprints import HASH_SIDE, fingerprint, perceptual_hashes
from vitrail.data.sources import open_source

NUM_PICTURES = 12


def _scene(seed: int) -> Image.Image:
    """160 x 120 pixels of smooth colours, different for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)


def _change(image: Image.Image, change: str) -> Image.Image:
    width, height = image.size
    if change == "resized":
        return image.resize((96, 72), Image.Resampling.BICUBIC)
    if change == "brighter":
        return ImageEnhance.Brightness(image).enhance(1.1)
    if change == "cropped":
        return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    if change == "mirrored":
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image  # recompressed


def _save(folder: Path, images: list[Image.Image], quality: int = 92) -> None:
    (folder / "a").mkdir(parents=True)
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        (folder / "a" / f"{number:02d}.jpg").write_bytes(buffer.getvalue())


@pytest.mark.parametrize("change", ["resized", "brighter", "cropped", "recompressed", "mirrored"])
def test_planted_copies_are_found_and_nothing_else(tmp_path: Path, change: str) -> None:
    scenes = [_scene(seed) for seed in range(NUM_PICTURES)]
    _save(tmp_path / "train", scenes)
    _save(tmp_path / "test", [_change(scene, change) for scene in scenes[:6]] + [_scene(99)], quality=40)
    train, test = (fingerprint(open_source(str(tmp_path / side))) for side in ("train", "test"))
    found = pairs_by_hash(train, test, mirrored=True)
    assert sorted((pair.first, pair.second) for pair in found) == [(number, number) for number in range(6)]
    if change in ("cropped", "mirrored"):
        assert {pair.kind for pair in found} == {change}
    without = pairs_by_hash(train, test)
    assert len(without) == (0 if change == "mirrored" else 6)


def test_within_one_set_a_picture_is_no_copy_of_itself_and_equal_files_are_told_once(tmp_path: Path) -> None:
    scenes = [_scene(seed) for seed in range(4)]
    _save(tmp_path, [*scenes, scenes[1], scenes[1], scenes[3].resize((80, 60))])
    prints = fingerprint(open_source(str(tmp_path)))
    exact, leaders, _ = same_files(prints, None)
    assert [(pair.first, pair.second) for pair in exact] == [(1, 4), (1, 5)]
    assert leaders.tolist() == [0, 1, 2, 3, 1, 1, 6]
    assert [(pair.first, pair.second) for pair in pairs_by_hash(prints, None, mirrored=True)] == [(3, 6)]


def test_plain_pictures_are_no_copies_of_one_another(tmp_path: Path) -> None:
    _save(tmp_path, [Image.new("RGB", (64, 64), (shade, 90, 40)) for shade in range(0, 250, 25)])
    prints = fingerprint(open_source(str(tmp_path)))
    assert pairs_by_hash(prints, None) == []


def test_the_mirrored_hash_is_the_hash_of_the_mirrored_pixels() -> None:
    grey = np.random.default_rng(0).uniform(0, 255, (20, HASH_SIDE, HASH_SIDE)).astype(np.float32)
    _, mirrored = perceptual_hashes(grey)
    hashes, _ = perceptual_hashes(np.ascontiguousarray(grey[:, :, ::-1]))
    assert max((int(one) ^ int(other)).bit_count() for one, other in zip(mirrored, hashes, strict=True)) == 0


def test_the_coefficients_are_those_of_a_cosine_transform() -> None:
    scipy_fft = pytest.importorskip("scipy.fft")
    grey = np.random.default_rng(1).uniform(0, 255, (5, HASH_SIDE, HASH_SIDE)).astype(np.float32)
    block = scipy_fft.dctn(grey.astype(np.float64), axes=(1, 2))[:, 1:9, 1:9].reshape(5, 64)
    bits = block > np.median(block, axis=1, keepdims=True)
    expected = [int("".join("01"[bit] for bit in row.astype(int)), 2) for row in bits]
    assert perceptual_hashes(grey)[0].tolist() == expected
