"""A model in as many threads as there are cores, each picture in one of them: the same bits in any company."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from vitrail.data.loader import num_cores
from vitrail.models.build import Model

# Products of fewer rows are rounded otherwise than those of more, by the libraries' kernels for small matrices.
_LEAST_ROWS = 64


class Streams:
    """Runs a model's pictures side by side, a thread each, so that an answer does not depend on its company.

    A product that several threads share may be cut along its sums, and is then rounded by how many rows it has. One
    thread sums in one order, whatever the batch; several of them with some pictures each are as fast as several at one
    picture, and do not wait for each other where another program has the core. What that costs is the time of a single
    picture, which has one core.

    Bits are those of this kind of processor and this build of torch. A model without tokens may still differ.

    Args:
        model: on the CPU, in evaluation mode.
        forward: (B, C, H, W) normalised pictures -> (B, K) float32; see `head_by_rows`.
    """

    def __init__(self, model: Model, forward: Callable[[Tensor], Tensor]) -> None:
        self._forward = forward
        self._least = -(-_LEAST_ROWS // getattr(model.config, "num_tokens", _LEAST_ROWS))  # pictures
        self._count = num_cores()
        self._threads = ThreadPoolExecutor(self._count, "model", initializer=_use_one_thread)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, K) float32 for (B, C, H, W); B may be 0."""
        if not len(images):
            return self._part(images.new_zeros(1, *images.shape[1:]))[:0]
        parts = images.tensor_split(min(self._count, len(images)))
        return torch.cat(list(self._threads.map(self._part, parts)))

    def _part(self, images: Tensor) -> Tensor:
        missing = max(0, self._least - len(images))
        padded = torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images
        with torch.inference_mode():
            return self._forward(padded)[: len(images)]


def _use_one_thread() -> None:
    torch.set_num_threads(1)
