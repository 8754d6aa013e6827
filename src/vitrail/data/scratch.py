"""Memory for intermediate pixels that is used again and again: the system hands out fresh memory page by page, which
takes longer than copying the pixels of a photograph does."""

from __future__ import annotations

import math
import threading

import numpy as np

MOST_BYTES = 1 << 24  # of one array; larger pictures are rare, and take far longer than their memory

_kept = threading.local()


def scratch(use: str, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of `shape`, not filled, whose memory the next call for the same `use` in this thread gets again."""
    size = math.prod(shape)
    if size > MOST_BYTES:
        return np.empty(shape, dtype=np.uint8)
    memory: np.ndarray | None = getattr(_kept, use, None)
    if memory is None or memory.size < size:
        memory = np.empty(size, dtype=np.uint8)
        setattr(_kept, use, memory)
    return memory[:size].reshape(shape)
