"""Where the model of a finished run looks in its test pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.sources.base import Source
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ImageError
from vitrail.inspection.distance import definition_of, mean_attention_distance
from vitrail.inspection.rollout import attention_rollout
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle

NUM_MEASURED = 128  # test pictures that distances are averaged over, as in the paper
# Of one (B, tokens, tokens) float64 matrix of rollout, of which some four are there at a time.
_MATRIX_BYTES = 32 << 20
_MOST_AT_ONCE = 32  # pictures


@dataclass(frozen=True)
class Look:
    """What reaches the answer from where.

    Attributes:
        pixels: (height, width, channels) uint8, the picture as the model sees it.
        rollout: (grid height, grid width) float64: the share of each patch in the answer, by attention rollout.
    """

    pixels: npt.NDArray[np.uint8]
    rollout: npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredDistance:
    """Mean attention distance.

    Attributes:
        pixels: (layers, heads) float64.
        even: of a head that pays all patches the same.
        definition: as `definition_of` has it.
        num_pictures: that were averaged over.
    """

    pixels: npt.NDArray[np.float64]
    even: float
    definition: str
    num_pictures: int


def look_at(bundle: Bundle, source: Source, indices: npt.NDArray[np.int64]) -> dict[int, Look]:
    """Of those pictures of `source` that can be read, by index; empty for models without attention of all on all.

    Memory is bounded: as many pictures at once as 32 MiB of rollout hold.
    """
    looks: dict[int, Look] = {}
    for model, found, pixels, images in _in_batches(bundle, source, indices):
        maps = attention_rollout(model, images, layers=[-1]).maps[0].cpu().numpy()
        for index, picture, rollout in zip(found, pixels, maps, strict=True):
            looks[index] = Look(picture.transpose(1, 2, 0), rollout)
    return looks


def measure_distance(bundle: Bundle, source: Source, indices: npt.NDArray[np.int64]) -> MeasuredDistance | None:
    """Over up to NUM_MEASURED of the pictures, evenly spaced, without those that cannot be read.

    None where all are such, and for models without attention of all on all.
    """
    rows = np.unique(np.linspace(0, len(indices) - 1, min(NUM_MEASURED, len(indices))).round().astype(int))
    total, count, even, definition = np.zeros(()), 0, 0.0, ""
    for model, found, _, images in _in_batches(bundle, source, indices[rows]):
        distance = mean_attention_distance(model, images)
        total, count = total + distance.pixels.cpu().numpy() * len(found), count + len(found)
        even, definition = distance.even, definition_of(distance, model.config.num_prefix_tokens)
    return MeasuredDistance(total / count, even, definition, count) if count else None


def _in_batches(
    bundle: Bundle, source: Source, indices: npt.NDArray[np.int64]
) -> Iterator[tuple[VisionTransformer, list[int], npt.NDArray[np.uint8], Tensor]]:
    """The model, indices of pictures that can be read, (B, C, H, W) uint8, and the same as the model takes them."""
    model, preprocessing = bundle.model, bundle.config.preprocessing
    if not isinstance(model, VisionTransformer) or model.config.attention != "global":
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    size = max(1, min(_MOST_AT_ONCE, _MATRIX_BYTES // (8 * model.config.num_tokens**2)))
    for start in range(0, len(indices), size):
        read = _read(source, indices[start : start + size].tolist(), preprocessing)
        if read:
            pixels = np.stack(list(read.values()))
            yield model, list(read), pixels, normalize(torch.from_numpy(pixels).to(device), preprocessing)


def _read(source: Source, indices: list[int], preprocessing: Preprocessing) -> dict[int, npt.NDArray[np.uint8]]:
    transform, read = EvaluationTransform(preprocessing), {}
    for index in indices:
        try:
            read[index] = transform(source.open(index))
        except ImageError:
            continue  # the run's own evaluation has named it
    return read
