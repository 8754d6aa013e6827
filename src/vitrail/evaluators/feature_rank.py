"""How many directions features really use: 1 where a network answers every picture alike but for its strength."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def effective_rank(features: npt.NDArray[np.floating]) -> float:
    """exp of the entropy of the singular values, as shares of their sum (Roy and Vetterli 2007, "The effective rank").

    The features are centred first: what all pictures have in common tells none from another.

    Args:
        features: (N, D), finite.
    Returns:
        Between 1 and min(N - 1, D); 0 where all rows are equal.
    Raises:
        ValueError: no two rows, or numbers that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {features.shape} are no two rows or more of a matrix")
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("features hold numbers that are not finite")
    centred = values - values.mean(axis=0)
    sizes = np.linalg.svd(centred, compute_uv=False)
    # Rows that are equal but for rounding are equal.
    if sizes[0] <= 1e-6 * np.sqrt(len(values)) * max(np.abs(values).max(), 1e-30):
        return 0.0
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
