"""How good a trained model is on labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.sources.base import Source, several
from vitrail.data.split import SPLIT_NAMES, SPLITS_BY_NAME, TEST
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import DataError
from vitrail.evaluators.evaluation import Evaluation, evaluate
from vitrail.tasks.inference import ask, load_classifier
from vitrail.training.events import Events


@dataclass(frozen=True)
class EvaluateConfig:
    model: str  # a bundle, or the run folder around it
    data: str  # as DataConfig.source
    split: Literal["auto", "all", "train", "validation", "test"] = "auto"  # auto: test where the data has it, else all
    batch_size: int = 32


@dataclass(frozen=True)
class EvaluateResult:
    evaluation: Evaluation
    files: tuple[str, ...]  # N, in the order of the rows below
    labels: npt.NDArray[np.int64]  # (N,) in the model's label map
    probabilities: npt.NDArray[np.float64]  # (N, K)
    broken: tuple[tuple[str, str], ...]  # (file, why) of pictures that could not be read
    unknown: tuple[str, ...]  # classes of the data that the model does not know; their pictures are left out

    def to_json(self) -> dict[str, Any]:
        return {
            **self.evaluation.to_json(),
            "broken": [{"file": file, "why": why} for file, why in self.broken],
            "unknown_classes": list(self.unknown),
        }


def evaluate_bundle(config: EvaluateConfig, events: Events) -> EvaluateResult:
    """Labels are matched by name, so the data's own order and missing classes do not matter.

    Raises:
        WeightsError: the bundle cannot be trusted. DataError: the data and the model share no class, or the split is
            empty.
    """
    source = open_source(config.data)
    bundle = load_classifier(config.model, events)
    split, indices = _rows(source, config)
    known = {name: label for label, name in enumerate(bundle.config.labels)}
    translation = np.array([known.get(name, -1) for name in source.classes], dtype=np.int64)
    labels = translation[source.labels]
    unknown = tuple(name for name in source.classes if name not in known)
    indices = indices[labels[indices] >= 0]
    if not len(indices):
        raise DataError(
            f"{config.data}: none of its classes ({several(list(source.classes))}) is one that the model knows"
            f" ({several(list(bundle.config.labels))}); classes are matched by their exact names"
        )
    if unknown:
        events.warning(f"left out, because the model does not know the class: {several(list(unknown))}")
    preprocessing = bundle.config.preprocessing
    answers = ask(
        bundle.model,
        Loader(source, indices, EvaluationTransform(preprocessing), batch_size=config.batch_size, seed=0),
        preprocessing,
        temperature=bundle.config.temperature,
        progress=lambda done, total: events.progress("evaluating", done, total),
    )
    for _, message in answers.broken:
        events.warning(f"left out: {message}")
    probabilities, labels = answers.probabilities, labels[answers.indices]
    return EvaluateResult(
        evaluation=evaluate(labels, bundle.config.labels, probabilities=probabilities, split=split),
        files=tuple(source.key(index) for index in answers.indices.tolist()),
        labels=labels,
        probabilities=probabilities,
        broken=tuple((source.key(index), message) for index, message in answers.broken),
        unknown=unknown,
    )


def _rows(source: Source, config: EvaluateConfig) -> tuple[str, npt.NDArray[np.int64]]:
    wanted = config.split
    if wanted == "auto":
        wanted = "test" if (source.splits == TEST).any() else "all"
    if wanted == "all":
        return "all", np.arange(len(source))
    rows = np.flatnonzero(source.splits == SPLITS_BY_NAME[wanted])
    if not len(rows):
        there = [name for number, name in enumerate(SPLIT_NAMES) if (source.splits == number).any()]
        raise DataError(
            f"{config.data} has no {wanted} split; it has {' and '.join(there) or 'no splits: use --split all'}"
        )
    return wanted, rows
