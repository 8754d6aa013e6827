"""How good a trained model is on labelled pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrail.data.imagenet_classes import imagenet_labels
from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.sources.base import Source, shown
from vitrail.data.split import SPLIT_NAMES, SPLITS_BY_NAME, TEST
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import DataError
from vitrail.evaluators.evaluation import Evaluation, evaluate
from vitrail.evaluators.real_labels import RealScore, check_real_labels, picture_number, real_score
from vitrail.tasks.inference import ask, load_classifier
from vitrail.tasks.labelled import match_classes
from vitrail.training.events import Events


@dataclass(frozen=True)
class EvaluateConfig:
    model: str  # a bundle, or the run folder around it
    data: str  # as DataConfig.source
    split: Literal["auto", "all", "train", "validation", "test"] = "auto"  # auto: test where the data has it, else all
    batch_size: int = 32
    real_labels: str | None = (
        None  # ImageNet-ReaL's real.json: the validation pictures of ImageNet are scored by it, too
    )


@dataclass(frozen=True)
class EvaluateResult:
    evaluation: Evaluation
    files: tuple[str, ...]  # N, in the order of the rows below
    labels: npt.NDArray[np.int64]  # (N,) in the model's label map
    probabilities: npt.NDArray[np.float64]  # (N, K)
    broken: tuple[tuple[str, str], ...]  # (file, why) of pictures that could not be read
    unknown: tuple[str, ...]  # classes of the data that the model does not know; their pictures are left out
    real: RealScore | None = None  # where real_labels were given

    def to_json(self) -> dict[str, Any]:
        return {
            **self.evaluation.to_json(),
            **({} if self.real is None else {"real": self.real.to_json()}),
            "broken": [{"file": file, "why": why} for file, why in self.broken],
            "unknown_classes": list(self.unknown),
        }


def evaluate_bundle(config: EvaluateConfig, events: Events) -> EvaluateResult:
    """Labels are matched by name, so the data's own order and missing classes do not matter.

    Raises:
        WeightsError: the bundle cannot be trusted. DataError: the data and the model share no class, or the split is
            empty, or real_labels are given and are no real.json, or the pictures are not ImageNet's validation ones.
    """
    real_labels = None if config.real_labels is None else read_real_labels(config.real_labels)
    source = open_source(config.data, progress=events.download)
    bundle = load_classifier(config.model, events)
    split, indices = _rows(source, config)
    if real_labels is not None:
        _places(source, indices)
    matched = match_classes(source, indices, bundle.config.labels, events)
    preprocessing = bundle.config.preprocessing
    answers = ask(
        bundle.model,
        Loader(source, matched.indices, EvaluationTransform(preprocessing), batch_size=config.batch_size, seed=0),
        preprocessing,
        temperature=bundle.config.temperature,
        progress=lambda done, total: events.progress("evaluating", done, total),
    )
    for _, message in answers.broken:
        events.warning(f"left out: {message}")
    probabilities, labels = answers.probabilities, matched.labels[answers.indices]
    real = None
    if real_labels is not None:
        places = _places(source, answers.indices)
        real = real_score(imagenet_classes(bundle.config.labels)[probabilities.argmax(axis=1)], places, real_labels)
    return EvaluateResult(
        evaluation=evaluate(labels, bundle.config.labels, probabilities=probabilities, split=split),
        files=tuple(source.key(index) for index in answers.indices.tolist()),
        labels=labels,
        probabilities=probabilities,
        broken=tuple((source.key(index), message) for index, message in answers.broken),
        unknown=matched.unknown,
        real=real,
    )


def read_real_labels(path: str) -> list[list[int]]:
    """ImageNet-ReaL's real.json. Raises DataError where it is none."""
    try:
        return check_real_labels(json.loads(Path(path).expanduser().read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not ImageNet-ReaL's real.json ({error}); it is at"
            " https://github.com/google-research/reassessed-imagenet"
        ) from error


def _places(source: Source, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The place of each picture in real.json, by the number in its file's name."""
    places = [picture_number(source.key(index)) for index in indices.tolist()]
    wrong = next((index for index, place in zip(indices.tolist(), places, strict=True) if place is None), None)
    if wrong is not None:
        raise DataError(
            f"{source.spec}: {shown(source.key(wrong))} is no validation picture of ImageNet"
            " (ILSVRC2012_val_00000001.JPEG, ...), for which alone ReaL has labels"
        )
    if len(set(places)) < len(places):
        raise DataError(f"{source.spec}: a validation picture of ImageNet is there twice; ReaL counts each once")
    return np.array(places, dtype=np.int64)


def imagenet_classes(labels: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """The class of ImageNet-1k that each label names; -1 where it names none."""
    numbers = {name: number for number, name in enumerate(imagenet_labels())}
    return np.array([numbers.get(label, -1) for label in labels], dtype=np.int64)


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
