"""Photographs to training batches on one core: ours, timm's default transform, torchvision's decoder and transforms.

Each way takes files to normalised float32 batches of 224 pixels: a random box of 8 to 100 % of the picture, resized,
and a flip, as all three do by default. They take turns over the same files in one process.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.goals import goal_row
from benchmarks.measure import Row
from vitrail.data.batches import normalize
from vitrail.data.config import Augmentation, LoaderConfig, Preprocessing
from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.transforms import TrainingTransform

SIZE, BATCH_SIZE, NUM_PICTURES, ROUNDS = 224, 32, 320, 7
TIMM = "timm's default transform"
WAYS = {"loader": "vitrail", "loader-cached": "vitrail, warm cache on the disk"}  # by their goals
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Way = Callable[[], Iterator[Tensor]]  # batches (B, 3, SIZE, SIZE) float32 of all the pictures


def measure_loader(data: Path | None) -> list[Row]:
    if data is None or not (data / "clothing-photos").is_dir():
        return [Row("photographs to batches", "left out: VITRAIL_DATA has no clothing-photos")]
    source = open_source(str(data / "clothing-photos"))
    indices = np.linspace(0, len(source) - 1, NUM_PICTURES).astype(np.int64)
    files = [source.root + "/" + source.key(int(index)) for index in indices]  # type: ignore[attr-defined]
    threads, cache = torch.get_num_threads(), os.environ.get("VITRAIL_CACHE")
    torch.set_num_threads(1)
    place = tempfile.TemporaryDirectory()
    os.environ["VITRAIL_CACHE"] = place.name
    try:
        rows = []
        ratios: dict[str, list[float]] = {}
        for interpolation in ("bilinear", "bicubic"):
            ways = {
                WAYS["loader"]: _ours(source, indices, interpolation),
                WAYS["loader-cached"]: _ours(source, indices, interpolation, "disk"),
                TIMM: _timm(files, interpolation),
                "torchvision's decode_jpeg and v2": _torchvision(files, interpolation),
            }
            for name, (median, ratio) in _compare(ways).items():
                rows.append(Row(f"{interpolation}: {name}", f"{median:.0f} img/s, {ratio:.2f} times timm's"))
                ratios.setdefault(name, []).append(ratio)
        # timm trains with both, so what is promised is the lesser.
        rows += [goal_row(goal, min(ratios[way]), TIMM, what=f"{way}: the lesser") for goal, way in WAYS.items()]
    finally:
        torch.set_num_threads(threads)
        place.cleanup()
        os.environ.pop("VITRAIL_CACHE")
        if cache is not None:
            os.environ["VITRAIL_CACHE"] = cache
    return rows


def _compare(ways: dict[str, Way]) -> dict[str, tuple[float, float]]:
    """Pictures a second, the median, and how many times timm's, the median over the turns."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + ROUNDS):  # the first one warms up
        for name, way in ways.items():
            start = time.perf_counter()
            pictures = sum(len(batch) for batch in way())
            if number > 0:
                rates[name].append(pictures / (time.perf_counter() - start))
    return {
        name: (
            statistics.median(found),
            statistics.median(rate / timm for rate, timm in zip(found, rates[TIMM], strict=True)),
        )
        for name, found in rates.items()
    }


def _ours(source: object, indices: np.ndarray, interpolation: str, cache: str = "none") -> Way:
    preprocessing = Preprocessing((SIZE, SIZE), interpolation=interpolation, mean=MEAN, std=STD)  # type: ignore[arg-type]
    loader = Loader(
        source,  # type: ignore[arg-type]
        indices,
        TrainingTransform(preprocessing, Augmentation(crop_area=(0.08, 1.0))),
        batch_size=BATCH_SIZE,
        seed=0,
        config=LoaderConfig(num_workers=0, cache=cache),  # type: ignore[arg-type]
    )

    def batches() -> Iterator[Tensor]:
        for batch in loader.stream(0, loader.steps_per_epoch):
            yield normalize(batch.images, preprocessing)

    return batches


def _timm(files: list[str], interpolation: str) -> Way:
    from timm.data import create_transform

    transform = create_transform(
        SIZE, is_training=True, auto_augment=None, color_jitter=None, interpolation=interpolation, mean=MEAN, std=STD
    )
    return lambda: _stacked(files, lambda file: transform(Image.open(file).convert("RGB")))


def _torchvision(files: list[str], interpolation: str) -> Way:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import InterpolationMode, v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                SIZE, scale=(0.08, 1.0), interpolation=InterpolationMode(interpolation), antialias=True
            ),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return lambda: _stacked(files, lambda file: transform(decode_jpeg(read_file(file), ImageReadMode.RGB)))


def _stacked(files: list[str], load: Callable[[str], Tensor]) -> Iterator[Tensor]:
    for start in range(0, len(files), BATCH_SIZE):
        yield torch.stack([load(file) for file in files[start : start + BATCH_SIZE]])
