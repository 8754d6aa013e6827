"""What a trained model sees in pictures: names and probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field

from vitrail.data.sources.pictures import find_pictures
from vitrail.engines.config import AnsweringConfig
from vitrail.errors import ConfigError
from vitrail.tasks.answering import find_answerer
from vitrail.tasks.inference import ask, find_loader, load_classifier
from vitrail.tasks.predictor import Prediction, head_by_rows, own_forward, predictions_of
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


def predict(config: PredictConfig, events: Events) -> tuple[Prediction, ...]:
    """Answers in the order in which the pictures were named.

    Raises:
        WeightsError: the bundle cannot be trusted. DataError: no picture was found. ConfigError: as `find_answerer`.
    """
    source = find_pictures(config.pictures)
    bundle = load_classifier(config.model, events)
    preprocessing = bundle.config.preprocessing
    loader, threads = find_loader(source, preprocessing, config.batch_size)
    answerer = find_answerer(bundle, loader, "logits", config.answering, events)
    forward = head_by_rows(bundle.model)
    is_plain = answerer.prepared is None and answerer.precision == "float32"
    answers = ask(
        bundle.model,
        loader,
        preprocessing,
        forward=own_forward(bundle.model, forward) if is_plain else forward,
        prepared=answerer.prepared,
        precision=answerer.precision,
        threads=threads,
        may_change_pace=not is_plain,
        temperature=bundle.config.temperature,
        progress=lambda done, total: events.progress("predicting", done, total),
    )
    predictions = {index: Prediction(source.key(index), error=message) for index, message in answers.broken}
    indices = answers.indices.tolist()
    files = [source.key(index) for index in indices]
    answered = predictions_of(files, answers.probabilities, bundle.config.labels, config.top_k)
    predictions |= dict(zip(indices, answered, strict=True))
    return tuple(predictions[index] for index in range(len(source)))
