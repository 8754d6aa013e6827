"""One data set of a benchmark, divided as its publisher does: a backbone's score on it, with or without training."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitrail.data.config import DataConfig
from vitrail.data.facts import describe
from vitrail.data.sources.base import Source
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.errors import DataError, ImageError
from vitrail.evaluators.few_shot import FewShot, fit_few_shot
from vitrail.recipes import Situation, get_recipe
from vitrail.recipes.scaling import shrink
from vitrail.recipes.sweeps import get_sweep
from vitrail.storage import remove_folder, write_file
from vitrail.tasks.features import extract_features
from vitrail.tasks.fit import at_size
from vitrail.tasks.floor import Floor
from vitrail.tasks.inference import ask
from vitrail.tasks.prepare import PreparedData
from vitrail.tasks.run import Run, resolved
from vitrail.tasks.several import settle, train_in
from vitrail.tasks.starting import Start
from vitrail.tasks.sweep import sweep
from vitrail.training.config import TrainConfig
from vitrail.training.events import Events
from vitrail.training.run_folder import CONFIG_FILE, read_config
from vitrail.training.run_state import CHECKPOINTS

PENALTIES = tuple(2.0**power for power in range(17, -11, -3))  # tried by a probe; of equally good ones the first


@dataclass(frozen=True)
class Predicted:
    """What a model says of the test pictures, N of them."""

    indices: npt.NDArray[np.int64]  # (N,) into the source
    labels: npt.NDArray[np.int64]  # (N,) predicted
    num_train: int  # pictures learnt from
    note: str = ""


@dataclass(frozen=True)
class Training:
    """How a task is fine-tuned."""

    recipe: str
    scale: float = 1.0  # as recipes.scaling.shrink
    image_size: int | None = None  # pixels a side; None: as the recipe has it
    seed: int = 0


def as_published(source: Source, held_out_share: float | None, max_train: int | None = None) -> PreparedData:
    """A data set with all its pictures, copies and odd ones among them: a benchmark is scored as it is.

    Args:
        held_out_share: of the training pictures, to choose settings by; validation pictures that the data has besides
            have no part, as in the paper. None: these validate.
        max_train: of more training pictures only so many have a part; None: all.
    Raises:
        DataError: it has no training or no test pictures.
    """
    splits = source.splits.copy()
    train = np.random.default_rng(0).permutation(np.flatnonzero(splits == TRAIN))
    splits[train[max_train:] if max_train is not None else train[:0]] = UNASSIGNED
    train = train[:max_train]
    if held_out_share is not None:
        splits[splits == VALIDATION] = UNASSIGNED
        splits[train[: max(1, round(held_out_share * len(train)))]] = VALIDATION
    for split, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (splits == split).any():
            raise DataError(f"{source.spec}: there are no {name} pictures; is the data set whole?")
    return PreparedData(source, splits, "", {})


def _fingerprint(prepared: PreparedData, events: Events) -> str:
    """SHA-256 over the names, labels, splits and contents of the pictures that have a part."""
    source, splits = prepared.source, prepared.splits
    digest = hashlib.sha256("\0".join(source.classes).encode("utf-8", "surrogatepass"))
    rows = np.flatnonzero(splits != UNASSIGNED)
    for number, index in enumerate(rows.tolist(), start=1):
        line = f"{source.key(index)}\0{source.labels[index]}\0{splits[index]}\0"
        digest.update(line.encode("utf-8", "surrogatepass") + _content(source, index))
        events.progress("reading pictures", number, len(rows))
    return digest.hexdigest()


def _content(source: Source, index: int) -> bytes:
    try:
        data = source.read_bytes(index)
        return hashlib.sha256(source.open(index).pixels().tobytes() if data is None else data).digest()
    except ImageError:
        return b""  # left out, and named, when its features are asked for


def probe(start: Start, prepared: PreparedData, events: Events) -> Predicted:
    """Least squares on frozen features, in closed form: the penalty that is best on the validation pictures, then
    fitted again to these and the training pictures together."""
    prepared = replace(prepared, fingerprint=_fingerprint(prepared, events))
    features: dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
    for split in (TRAIN, VALIDATION, TEST):
        found = extract_features(start.bundle, prepared, prepared.indices(split), events)
        features[split] = (found.values, np.asarray(prepared.source.labels[found.indices]), found.indices)
    (x, y, _), (checked, wanted, _), (test, _, indices) = (features[split] for split in (TRAIN, VALIDATION, TEST))
    num_classes = len(prepared.source.classes)

    def fitted(penalty: float) -> FewShot:
        return fit_few_shot(x, y, num_classes, penalties=(penalty,))

    best = max(PENALTIES, key=lambda penalty: float((fitted(penalty).predict(checked) == wanted).mean()))
    x, y = np.concatenate([x, checked]), np.concatenate([y, wanted])
    return Predicted(indices, fitted(best).predict(test), len(y), f"penalty {best:g}")


def training_config(training: Training, start: Start, prepared: PreparedData, spec: str) -> tuple[TrainConfig, float]:
    """The recipe for this data, with no validation pictures: settings are fixed, and the last weights count.

    Args:
        spec: of the data, absolute.
    Returns:
        The config, and the factor of the scale on its learning rate.
    """
    facts = describe(prepared.source, prepared.indices(TRAIN))
    data = DataConfig(source=spec, validation_share=0.0)
    config = get_recipe(training.recipe)(Situation(data, facts, start.for_recipe(), training.seed))
    small, _ = shrink(config, training.scale)
    factor = small.optimizer.learning_rate / config.optimizer.learning_rate
    return resolved(small if training.image_size is None else at_size(small, training.image_size), prepared), factor


def finetune(
    training: Training, start: Start, prepared: PreparedData, spec: str, place: Path, events: Events, command: str
) -> Predicted:
    """Train on training and validation pictures together, in the run folder `place`, from its last checkpoint where it
    has one; ask the last weights about the test pictures."""
    whole = _learning_from_all(prepared)
    if (place / CONFIG_FILE).exists():
        config = read_config(place)
    else:
        config, _ = settle(training_config(training, start, whole, spec)[0], whole, events, start)

    def end(run: Run, _: dict[str, float]) -> Predicted:
        answers = ask(
            run.best_model(),
            run.evaluation_loader(TEST),
            config.preprocessing,
            progress=lambda done, total: events.progress("evaluating", done, total),
        )
        size = "x".join(map(str, config.preprocessing.image_size))
        note = f"{run.plan.total_steps:,} updates of {config.batch_size} at {size}"
        return Predicted(answers.indices, answers.values.argmax(axis=1), len(whole.indices(TRAIN)), note)

    return train_in(place, config, whole, Floor(()), events, command, end, start)


def _learning_from_all(prepared: PreparedData) -> PreparedData:
    """With the validation pictures among the training pictures."""
    splits = np.where(prepared.splits == VALIDATION, TRAIN, prepared.splits).astype(np.int8)
    return replace(prepared, splits=splits)


def finetune_with_sweep(
    training: Training, start: Start, prepared: PreparedData, spec: str, place: Path, events: Events, command: str
) -> Predicted:
    """As `finetune`, at the learning rate that is best on held-out training pictures, of those that the paper tried."""
    # The features of the sweep's floor are kept under the fingerprint.
    whole = replace(_learning_from_all(prepared), fingerprint=_fingerprint(prepared, events))
    config, factor = training_config(training, start, whole, spec)
    rates = get_sweep(training.recipe, factor=factor)
    own = Events(*events.sinks)
    try:
        result = sweep(config, rates, str(place), own, command, whole)
    finally:
        for sink in own.sinks[len(events.sinks) :]:
            sink.close()  # the log of this sweep, which does not listen to the next one
    note = f"learning rate {result.config.optimizer.learning_rate:g} of {len(rates.learning_rates)} tried"
    num_train = len(result.prepared.indices(TRAIN))
    return Predicted(result.test.indices, result.test.values.argmax(axis=1), num_train, note)


def forget_training(place: Path) -> None:
    """Remove the checkpoints of a task that has its score: they take several times the weights, of each task."""
    remove_folder(place / CHECKPOINTS)


def write_predictions(path: Path, source: Source, predicted: Predicted) -> None:
    """A line for each test picture: file, label, prediction."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "label", "prediction"])
    for index, label in zip(predicted.indices.tolist(), predicted.labels.tolist(), strict=True):
        writer.writerow([source.key(index), source.classes[source.labels[index]], source.classes[label]])
    write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))
