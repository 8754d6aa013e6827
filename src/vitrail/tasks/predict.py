"""What a trained model sees in pictures: names and probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.data.sources.pictures import find_pictures
from vitrail.engines.config import AnsweringConfig
from vitrail.errors import ConfigError
from vitrail.tasks.answering import find_answerer
from vitrail.tasks.inference import ask, find_loader, load_classifier
from vitrail.training.events import Events


@dataclass(frozen=True)
class PredictConfig:
    model: str  # a bundle, or the run folder around it
    pictures: tuple[str, ...]  # files, or folders whose pictures are taken
    top_k: int = 3
    batch_size: int = 32
    answering: AnsweringConfig = field(default_factory=AnsweringConfig)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ConfigError(f"top_k {self.top_k} is below 1")


@dataclass(frozen=True)
class Prediction:
    """One picture's answer; a picture that cannot be read has an `error` and no answer."""

    file: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()  # the most probable classes, most probable first
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "error": self.error,
        }


def predict(config: PredictConfig, events: Events) -> tuple[Prediction, ...]:
    """Answers in the order in which the pictures were named.

    Raises:
        WeightsError: the bundle cannot be trusted. DataError: no picture was found. ConfigError: as `find_answerer`.
    """
    source = find_pictures(config.pictures)
    bundle = load_classifier(config.model, events)
    preprocessing, labels = bundle.config.preprocessing, bundle.config.labels
    loader, threads = find_loader(source, preprocessing, config.batch_size)
    answerer = find_answerer(bundle, loader, "logits", config.answering, events)
    answers = ask(
        bundle.model,
        loader,
        preprocessing,
        prepared=answerer.prepared,
        precision=answerer.precision,
        threads=threads,
        temperature=bundle.config.temperature,
        progress=lambda done, total: events.progress("predicting", done, total),
    )
    predictions = {index: Prediction(source.key(index), error=message) for index, message in answers.broken}
    for index, row in zip(answers.indices.tolist(), answers.probabilities, strict=True):
        order = np.argsort(-row, kind="stable")[: config.top_k]
        top = tuple((labels[place], float(row[place])) for place in order)
        predictions[index] = Prediction(source.key(index), top[0][0], top[0][1], top)
    return tuple(predictions[index] for index in range(len(source)))
