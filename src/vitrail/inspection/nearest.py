"""Which rows of a matrix of features are most like others: what a model finds alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_CELLS = 2**22  # similarities held at a time: 16 MiB
# Between sums of float32 in another order, for rows of length 1 and a width of thousands.
_SLACK = np.float32(1e-4)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nearest:
    """Of each of B queries the K most similar rows, the most similar first, of equals the one with the smaller index.

    Attributes:
        indices: (B, K) int64; K is the number asked for, or that of all rows where there are fewer.
        similarity: (B, K) float32, the cosine, -1 to 1; 0 for a row or a query of zeros.
    """

    indices: npt.NDArray[np.int64]
    similarity: Floats


def unit_rows(features: npt.ArrayLike) -> Floats:
    """Rows divided by their length; rows of zeros stay as they are.

    Args:
        features: (N, D) of any float type.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: another number of dimensions, or numbers that are not finite.
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"features of shape {rows.shape} are not finite numbers in rows and columns")
    # The squares of large float16 or float32 numbers have no room in their own type.
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    unit = np.empty(rows.shape, dtype=np.float32)
    # Into an array of its own, or all of them would stand in float64 for a moment.
    np.divide(rows, np.where(length > 0, length, 1.0)[:, None], out=unit, casting="same_kind")
    return unit


def nearest(features: Floats, queries: npt.ArrayLike, count: int) -> Nearest:
    """See `Nearest`. A query has the same neighbours whatever is asked beside it.

    Sums of float32 come out a little different with the shape of a matrix product, and with the place of a row in it.
    So such a product only finds the rows that may be among the nearest; those are ranked by sums in float64, each made
    in the same order. Beside its arguments this holds 16 MiB, and a copy of the rows that are ranked: few of them
    unless most rows are equals.

    Args:
        features: (N, D), rows of length 1, as `unit_rows` gives.
        queries: (B, D) of any length.
        count: how many for each query.

    Raises:
        ValueError: no row to find, a count below 1, another D, or numbers that are not finite.
    """
    asked = unit_rows(queries)
    if count < 1 or not len(features):
        raise ValueError(f"{count} neighbours of {len(features)} rows: there is nothing to find")
    if asked.shape[1] != features.shape[1]:
        raise ValueError(f"queries of {asked.shape[1]} features, and the rows have {features.shape[1]}")
    count = min(count, len(features))
    indices = np.empty((len(asked), count), dtype=np.int64)
    similarity = np.empty((len(asked), count), dtype=np.float32)
    block = max(1, MAX_CELLS // len(features))
    for start in range(0, len(asked), block):
        rough = asked[start : start + block] @ features.T
        least = np.partition(rough, -count, axis=1)[:, -count] - _SLACK
        for row, (near, enough) in enumerate(zip(rough, least, strict=True), start):
            found = np.flatnonzero(near >= enough)
            exact = np.einsum("nd,d->n", features[found], asked[row], dtype=np.float64).astype(np.float32)
            order = np.argsort(-exact, kind="stable")[:count]
            indices[row], similarity[row] = found[order], exact[order]
    return Nearest(indices, similarity)
