"""Models in the layouts of Hugging Face transformers: which of them can say a model."""

from __future__ import annotations

from vitrail.errors import WeightsError
from vitrail.weights.adapters.base import Model, Writing


def write(model: Model) -> Writing:
    raise WeightsError("this layout is not written yet")
