"""The cache of decoded pictures on the disk: never another bit, never half a file, never beyond its bound."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.config import Augmentation, LoaderConfig, Preprocessing
from vitrail.data.images import Picture, open_picture, picture_from_array
from vitrail.data.loader import Loader
from vitrail.data.pixel_cache import PixelCache
from vitrail.data.sources import open_source
from vitrail.data.transforms import TrainingTransform
from vitrail.errors import ConfigError, DataError, ImageError

NUM_PICTURES = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """JPEGs, PNGs and a turned one, and one that is cut off."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos" / "class"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number in range(NUM_PICTURES):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        image = coarse.resize((300, 340), Image.Resampling.BICUBIC)
        kind, options = ("png", {}) if number % 5 == 1 else ("jpg", {"exif": turned} if number % 5 == 2 else {})
        image.save(folder / f"{number:02d}.{kind}", **options)
    cut = folder / "05.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def make(photos: Path, cache: str = "disk", num_workers: int = 0, size: int = 140, gigabytes: float = 1.0) -> Loader:
    transform = TrainingTransform(Preprocessing((size, size)), Augmentation(color_jitter_rate=0.3))
    source = open_source(str(photos))
    config = LoaderConfig(num_workers, cache, gigabytes)  # type: ignore[arg-type]
    return Loader(source, np.arange(len(source)), transform, batch_size=4, seed=3, config=config)


def contents(loader: Loader) -> list[tuple[object, ...]]:
    return [
        (batch.images.numpy().tobytes(), batch.indices.tolist(), batch.broken)
        for batch in loader.stream(0, 2 * loader.steps_per_epoch)
    ]


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [140, 60])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_batches_are_the_same_bit_for_bit(photos: Path, cache: Path, size: int, num_workers: int) -> None:
    expected = contents(make(photos, "none", size=size))
    assert contents(make(photos, num_workers=num_workers, size=size)) == expected  # cold, then warm
    assert len(entries(cache)) >= NUM_PICTURES - 1
    assert contents(make(photos, num_workers=num_workers, size=size)) == expected


def test_a_warm_cache_decodes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "class" / "05.jpg").unlink()
    expected = contents(make(photos))

    def refuse(self: Picture, *_: object) -> None:
        raise AssertionError(f"{self.name} is decoded again")

    for kind in Picture.__subclasses__():
        monkeypatch.setattr(kind, "_decode", refuse)
        monkeypatch.setattr(kind, "_top", lambda *_: None)
    assert contents(make(photos)) == expected


def test_a_picture_that_changes_is_decoded_again(photos: Path) -> None:
    contents(make(photos))
    first, second = photos / "class" / "00.jpg", photos / "class" / "03.jpg"
    status = first.stat()
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))  # not even the time tells
    assert contents(make(photos)) == contents(make(photos, "none"))


@pytest.mark.parametrize("damage", ["pixel", "cut", "grown", "empty", "header", "folder"])
def test_a_damaged_entry_is_decoded_again(photos: Path, cache: Path, damage: str) -> None:
    expected = contents(make(photos))
    for path in entries(cache):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= damage == "pixel"
        data[3] ^= damage == "header"
        path.write_bytes({"cut": data[:-1], "grown": data + b"\0", "empty": b""}.get(damage, data))
        if damage == "folder":
            path.unlink()
            path.mkdir()
    assert contents(make(photos)) == expected


def test_the_folder_stays_within_its_bound(photos: Path, cache: Path) -> None:
    expected = contents(make(photos, "none"))
    one = 3 * 300 * 340
    bound = 4.2 * one
    assert contents(make(photos, gigabytes=bound / 1e9)) == expected
    kept = entries(cache)
    assert 3 <= len(kept) <= 4
    assert sum(path.stat().st_size for path in kept) <= bound


def test_what_no_run_uses_any_more_gives_way(photos: Path, cache: Path) -> None:
    contents(make(photos, gigabytes=4.2 * 3 * 300 * 340 / 1e9))
    old = entries(cache)
    for path in old:
        os.utime(path, (1, 1))
    others = photos.parent / "others"
    shutil.copytree(photos, others)
    for path in others.rglob("*.jpg"):
        if path.name != "05.jpg":
            Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    for path in others.rglob("*.png"):
        path.unlink()
    contents(make(others, gigabytes=4.2 * 3 * 300 * 340 / 1e9))
    assert not any(path.exists() for path in old)
    assert 3 <= len(entries(cache)) <= 4


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(photos: Path, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    with pytest.raises(DataError, match=r"VITRAIL_CACHE.*--loader.cache"):
        make(photos)


def test_a_cache_of_no_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="cache_gigabytes 0"):
        LoaderConfig(cache_gigabytes=0)


def test_pictures_in_memory_and_broken_ones_are_not_kept(cache: Path) -> None:
    pixels = PixelCache.open(10**9)
    picture = picture_from_array(np.zeros((4, 4, 3), np.uint8), "a")
    assert pixels.keep(picture) is picture
    broken = pixels.keep(open_picture(b"P6 4 4 255\n" + bytes(10), "b"))
    for _ in range(2):
        with pytest.raises(ImageError, match="b: "):
            broken.image()
    assert not entries(cache)


PROGRAM = """
import sys
import numpy as np
from vitrail.data.pixel_cache import PixelCache
cache = PixelCache.open(10**10)
pixels = np.full((1500, 1500, 3), int(sys.argv[1]), np.uint8)
print("started", flush=True)
for number in range(10**6):
    cache.write((number % 7).to_bytes(20, "big"), pixels)
"""


def test_writers_that_are_killed_and_writers_at_once_leave_whole_entries(cache: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(shade)], stdout=subprocess.PIPE, text=True)
        for shade in (1, 2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "started\n"
    time.sleep(0.5)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    reader = PixelCache.open(10**10)
    shades = set()
    for number in range(7):
        pixels = reader.read(number.to_bytes(20, "big"), (1500, 1500, 3))
        assert pixels is not None
        shades |= set(np.unique(pixels).tolist())
    assert shades <= {1, 2}
    # What the killed ones left unfinished is removed once it is old.
    left = [path for path in entries(cache) if path.name.startswith(".")]
    for path in left:
        os.utime(path, (1, 1))
    reader.write(b"x" * 20, np.zeros((1, 1, 3), np.uint8))
    assert not any(path.exists() for path in left)
