"""All pairs of features whose cosine is high: exact, in blocks of matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK = 2048  # rows and columns of a product: 16 MB of cosines

Rows = npt.NDArray[np.float32]


def similar_pairs(
    first: Rows,
    second: Rows,
    threshold: float,
    block: int = BLOCK,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Rows]]:
    """Every pair of one row of each set with a cosine of at least `threshold`.

    Args:
        first: (N, D). second: (M, D); rows of zeros are like nothing.
        progress: called with (rows of `first` done, N).
    Yields:
        (positions in first, positions in second, cosines) of blocks that are not empty.
    """
    for start in range(0, len(first), block):
        left = _unit(first[start : start + block])
        for column in range(0, len(second), block):
            cosines = left @ _unit(second[column : column + block]).T
            rows, columns = np.nonzero(cosines >= threshold)
            if len(rows):
                yield rows + start, columns + column, cosines[rows, columns]
        if progress is not None:
            progress(min(start + block, len(first)), len(first))


def _unit(rows: Rows) -> Rows:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)
