"""Whether a backbone is good for some pictures: what its frozen features alone can tell, before any training."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vitrail.data.config import DataConfig
from vitrail.data.sources import open_source
from vitrail.data.sources.base import several
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.evaluators.accuracy import wilson_interval
from vitrail.evaluators.comparison import Comparison, compare
from vitrail.evaluators.few_shot import PENALTIES, PENALTY, draw_shots, fit_few_shots
from vitrail.evaluators.knn import NUM_NEIGHBOURS, nearest_neighbours
from vitrail.evaluators.linear import fit_linear
from vitrail.models.build import build_model
from vitrail.storage import write_file, write_json
from vitrail.tasks.features import FeatureKind, extract_features
from vitrail.tasks.floor import Floor, FloorModel, measure_floor
from vitrail.tasks.prepare import PreparedData, describe_splits, prepare_data
from vitrail.training.events import Events
from vitrail.training.linear_probe import PROTOCOLS, fit_sgd
from vitrail.weights.bundle import Bundle
from vitrail.weights.load import load

SHOTS = (1, 5, 10, 25)  # as big_vision's evaluator
BEST_K = 20  # the number of neighbours that is best most often (Caron et al. 2021), so that no test picture chooses it
TOP_5_CLASSES = 6  # from so many classes on, being among the first five says something


@dataclass(frozen=True)
class ProbeConfig:
    """What is not said here is as the evaluators have it."""

    model: str  # as weights.load.load; a head is not needed
    data: str  # as DataConfig.source
    shots: tuple[int, ...] = ()  # empty: those of 1, 5, 10, 25 that at least half of the classes have
    seeds: int = 3  # few-shot sets, drawn with the seeds 0, 1, ...
    knn: bool = True
    linear: bool = False
    sgd: str | None = None  # one of training.linear_probe.PROTOCOLS
    choose_penalty: bool = False  # from 2^-10 to 2^19 on each few-shot set, in place of 2^10
    features: FeatureKind = "pre_logits"
    layer: int | None = None  # features of this block, from 0 or from -1 backwards; None: after the last
    untrained: bool = False  # few-shot also with the same network as it is before any training
    max_pictures: int = 20_000  # of each split; more are sampled
    strict: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.max_pictures < 2:
            raise ConfigError(f"seeds {self.seeds} and max_pictures {self.max_pictures} must be at least 1 and 2")
        if self.shots and min(self.shots) < 1:
            raise ConfigError(f"shots {list(self.shots)} must each be at least 1 picture a class")
        if self.sgd is not None and self.sgd not in PROTOCOLS:
            raise ConfigError(f"sgd '{self.sgd}' is none of {', '.join(PROTOCOLS)}")


@dataclass(frozen=True)
class FewShotScore:
    shots: int
    accuracies: tuple[float, ...]  # a seed each
    penalties: tuple[float, ...]  # a seed each
    num_rows: int  # pictures learnt from
    short_classes: tuple[str, ...]  # with fewer pictures than shots: all of theirs are taken

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; nan of one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan

    def to_json(self) -> dict[str, Any]:
        return {
            "shots": self.shots,
            "accuracies": list(self.accuracies),
            "mean": self.mean,
            "spread": None if math.isnan(self.spread) else self.spread,
            "penalties": list(self.penalties),
            "pictures": self.num_rows,
            "classes_with_fewer": list(self.short_classes),
        }


@dataclass(frozen=True)
class Score:
    """A probe that learns from every training picture."""

    name: str  # "20 nearest neighbours", "logistic regression"
    accuracy: float
    top_5_accuracy: float | None = None
    note: str = ""  # "C 0.01, chosen on validation pictures"


@dataclass(frozen=True)
class ProbeResult:
    model: str
    prepared: PreparedData
    num_features: int
    num_train: int  # pictures whose features took part
    num_test: int
    few_shot: tuple[FewShotScore, ...]  # in the order of shots
    untrained: tuple[FewShotScore, ...]  # the same of the untrained network, where it was asked for
    scores: tuple[Score, ...]
    floor: Floor  # on pixels, fitted on all training pictures
    headline: Score | FewShotScore  # what is compared with the floor
    comparison: Comparison  # on the same test pictures

    def describe(self) -> tuple[str, ...]:
        """The answer in plain words."""
        lines, floor = [], self.floor.best
        if self.few_shot:
            last = self.few_shot[-1]
            seeds = f"mean of {len(last.accuracies)} seeds, spread {100 * last.spread:.1f}"
            lines.append(
                f"These features alone name {100 * last.mean:.1f} % of {self.num_test:,} unseen pictures with"
                f" {last.shots} picture{'s' if last.shots > 1 else ''} a class"
                f" ({seeds if len(last.accuracies) > 1 else 'one seed'})."
            )
            if self.untrained:
                before = 100 * self.untrained[-1].mean
                lines.append(f"The same network untrained: {before:.1f} %, so {100 * last.mean - before:+.1f} points.")
            if last.short_classes:
                lines.append(
                    f"Of {several(list(last.short_classes))} there are fewer than {last.shots} training pictures;"
                    " all of them were taken."
                )
        if isinstance(self.headline, Score):
            low, high = wilson_interval(round(self.headline.accuracy * self.num_test), self.num_test)
            lines.append(
                f"With all {self.num_train:,} training pictures: {100 * self.headline.accuracy:.1f} %"
                f" ({self.headline.name}; 95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
            )
        said = {
            "beat": "clearly above what needs no backbone",
            "no clear difference": "NOT clearly above what needs no backbone",
            "did not beat": "BELOW what needs no backbone",
        }[self.comparison.verdict]
        lines.append(f"That is {said}: {floor.name}, {100 * floor.test_accuracy:.1f} %.")
        if self.comparison.verdict == "beat":
            lines.append(f"Worth starting from: vitrail fit {self.prepared.source.spec} --weights {self.model}")
        else:
            lines.append("Another backbone may suit these pictures better; see: vitrail models --weights")
        return tuple(lines)

    def table(self) -> list[tuple[str, str, float, float | None]]:
        """Rows of (probe, note, accuracy, spread or None), the floors last."""
        rows: list[tuple[str, str, float, float | None]] = []
        for scores, note in ((self.few_shot, "pictures"), (self.untrained, "pictures, untrained network")):
            for score in scores:
                spread = None if math.isnan(score.spread) else score.spread
                rows.append((f"few-shot, {score.shots} a class", f"{score.num_rows:,} {note}", score.mean, spread))
        rows += [(score.name, score.note, score.accuracy, None) for score in self.scores]
        floors = reversed(self.floor.models)
        return rows + [(floor.name, "no backbone", floor.test_accuracy, None) for floor in floors]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.prepared.source.spec,
            "fingerprint": self.prepared.fingerprint,
            "classes": len(self.prepared.source.classes),
            "num_features": self.num_features,
            "train_pictures": self.num_train,
            "test_pictures": self.num_test,
            "few_shot": [score.to_json() for score in self.few_shot],
            "untrained_few_shot": [score.to_json() for score in self.untrained],
            "probes": [
                {
                    "name": score.name,
                    "accuracy": score.accuracy,
                    "top_5_accuracy": score.top_5_accuracy,
                    "note": score.note,
                }
                for score in self.scores
            ],
            "floor": [{"name": floor.name, "accuracy": floor.test_accuracy} for floor in self.floor.models],
            "comparison": self.comparison.to_json(),
        }

    def write(self, folder: str | Path) -> None:
        """probe.json and probe.csv. Raises RunError where the folder cannot be made, or holds a probe already."""
        place = Path(folder)
        if (place / "probe.json").exists():
            raise RunError(f"{place}: holds a probe already, which is not overwritten; name another folder with --out")
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["probe", "note", "accuracy", "spread"])
        writer.writerows([name, note, accuracy, spread] for name, note, accuracy, spread in self.table())
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_file(place / "probe.csv", text.getvalue().encode("utf-8", "backslashreplace"))
            write_json(place / "probe.json", self.to_json())
        except OSError as error:
            raise RunError(f"{place}: cannot be written ({error.strerror}); name another folder with --out") from error


@dataclass(frozen=True)
class _Split:
    rows: npt.NDArray[np.int64]  # (N,) into the source
    features: npt.NDArray[np.float32]  # (N, D)
    labels: npt.NDArray[np.int64]  # (N,)


def probe(config: ProbeConfig, events: Events) -> ProbeResult:
    """Check and split the pictures, compute (or find) their features, and ask every probe once.

    Nothing is chosen by test pictures: the penalty is fixed or chosen on the few-shot set, the strength of the
    logistic regression and the learning rate of SGD on validation pictures, and the number of neighbours is BEST_K.

    Raises:
        WeightsError: the backbone cannot be read. DataError: the pictures cannot be used, or have one class.
    """
    source = open_source(config.data, progress=events.download)
    bundle = load(config.model, progress=events.download)
    prepared = prepare_data(source, DataConfig(source=config.data, strict=config.strict), events)
    events.note(f"data: {describe_splits(prepared)}")
    if bundle.config.provenance.get("data_fingerprint") == prepared.fingerprint:
        events.note("this backbone was trained on the training side of these very pictures: expect it to know them")
    train = _features(TRAIN, bundle, prepared, config, events)
    test = _features(TEST, bundle, prepared, config, events)
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{config.data}: the training pictures are all of one class; two or more are needed")
    floor = measure_floor(prepared)
    few_shot, predictions = _few_shot(train, test, source.classes, config)
    headline: Score | FewShotScore = few_shot[-1]
    untrained: list[FewShotScore] = []
    if config.untrained:
        events.note("probe: the same network untrained")
        before = replace(bundle, model=build_model(bundle.config.model, generator=torch.Generator().manual_seed(0)))
        before_train, before_test = (_features(split, before, prepared, config, events) for split in (TRAIN, TEST))
        untrained, _ = _few_shot(before_train, before_test, source.classes, config)
    scores: list[Score] = []
    if config.knn:
        events.note("probe: nearest neighbours")
        neighbours, predictions = _neighbours(train, test, len(source.classes))
        scores += neighbours
        headline = next(score for score in scores if score.name.startswith(f"{min(BEST_K, len(train.rows))} "))
    if config.linear or config.sgd is not None:
        validation = _features(VALIDATION, bundle, prepared, config, events)
        if config.sgd is not None:
            events.note(f"probe: momentum SGD as {config.sgd} has it")
            headline, predictions = _sgd(train, validation, test, len(source.classes), config.sgd)
            scores.append(headline)
        if config.linear:
            events.note("probe: logistic regression")
            headline, predictions = _linear(train, validation, test, events)
            scores.append(headline)
    return ProbeResult(
        model=config.model,
        prepared=prepared,
        num_features=train.features.shape[1],
        num_train=len(train.rows),
        num_test=len(test.rows),
        few_shot=tuple(few_shot),
        untrained=tuple(untrained),
        scores=tuple(scores),
        floor=floor,
        headline=headline,
        comparison=_compare(test, predictions, floor.best),
    )


def _features(split: int, bundle: Bundle, prepared: PreparedData, config: ProbeConfig, events: Events) -> _Split:
    rows = prepared.indices(split)
    if len(rows) > config.max_pictures:
        events.note(f"{config.max_pictures:,} of {len(rows):,} pictures are looked at; --max-pictures takes more")
        rows = np.sort(np.random.default_rng(0).choice(rows, config.max_pictures, replace=False))
    found = extract_features(bundle, prepared, rows, events, kind=config.features, layer=config.layer)
    return _Split(found.indices, found.values, np.asarray(prepared.source.labels[found.indices]))


def _few_shot(
    train: _Split, test: _Split, classes: tuple[str, ...], config: ProbeConfig
) -> tuple[list[FewShotScore], npt.NDArray[np.int64]]:
    """A score for each number of shots, and the predictions of the last one's first seed."""
    counts = np.bincount(train.labels, minlength=len(classes))
    # Dict keys: each once, in order.
    shots = tuple(sorted(set(config.shots))) or tuple(
        number for number in SHOTS if number == 1 or number <= np.median(counts[counts > 0])
    )
    penalties = PENALTIES if config.choose_penalty else (PENALTY,)
    accuracies: list[list[float]] = [[] for _ in shots]
    chosen: list[list[float]] = [[] for _ in shots]
    first = np.empty(0, np.int64)
    for seed in range(config.seeds):
        models = fit_few_shots(train.features, train.labels, len(classes), shots=shots, seed=seed, penalties=penalties)
        for place, model in enumerate(models):
            predicted = model.predict(test.features)
            accuracies[place].append(float((predicted == test.labels).mean()))
            chosen[place].append(model.penalty)
            if seed == 0:
                first = predicted
    sizes = [len(rows) for rows in draw_shots(train.labels, len(classes), shots, 0)]
    return [
        FewShotScore(
            number,
            tuple(accuracies[place]),
            tuple(chosen[place]),
            sizes[place],
            tuple(classes[label] for label in np.flatnonzero(counts < number).tolist()),
        )
        for place, number in enumerate(shots)
    ], first


def _neighbours(train: _Split, test: _Split, num_classes: int) -> tuple[list[Score], npt.NDArray[np.int64]]:
    """A score for each number of neighbours there are rows for, and the predictions with BEST_K."""
    best = min(BEST_K, len(train.rows))
    ks = sorted({best, *(k for k in NUM_NEIGHBOURS if k <= len(train.rows))})
    answers = nearest_neighbours(train.features, train.labels, test.features, num_classes, ks=ks)
    scores = []
    for answer in answers:
        top_5 = answer.accuracy(test.labels, top=5) if num_classes >= TOP_5_CLASSES else None
        note = "" if top_5 is None else f"among the first 5: {100 * top_5:.1f} %"
        scores.append(Score(f"{answer.k} nearest neighbours", answer.accuracy(test.labels), top_5, note))
    return scores, answers[ks.index(best)].predictions[:, 0]


def _linear(train: _Split, validation: _Split, test: _Split, events: Events) -> tuple[Score, npt.NDArray[np.int64]]:
    fitted = fit_linear(train.features, train.labels, validation.features, validation.labels)
    if not fitted.converged:
        events.warning("the logistic regression stopped before it had converged; its figure is a lower bound")
    predicted = fitted.predict(test.features)
    note = f"C {fitted.strength:g}, chosen on validation pictures{'' if fitted.converged else '; not converged'}"
    return Score("logistic regression", float((predicted == test.labels).mean()), None, note), predicted


def _sgd(
    train: _Split, validation: _Split, test: _Split, num_classes: int, protocol: str
) -> tuple[Score, npt.NDArray[np.int64]]:
    fitted = fit_sgd(
        train.features, train.labels, validation.features, validation.labels, num_classes, PROTOCOLS[protocol]
    )
    predicted = fitted.predict(test.features)
    note = (
        f"{PROTOCOLS[protocol].epochs} epochs, learning rate {fitted.learning_rate:.3g}, chosen on validation pictures"
    )
    return Score(
        f"linear classifier by SGD ({protocol})", float((predicted == test.labels).mean()), None, note
    ), predicted


def _compare(test: _Split, predictions: npt.NDArray[np.int64], floor: FloorModel) -> Comparison:
    _, ours, theirs = np.intersect1d(test.rows, floor.test_indices, return_indices=True)
    labels = test.labels[ours]
    return compare(predictions[ours] == labels, floor.test_predictions[theirs] == labels)
