"""A run without labels: from pictures to features that a classifier can start from."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.loader import Loader
from vitrail.data.order import step_seed
from vitrail.data.sources import absolute_spec, open_pictures
from vitrail.data.split import SPLIT_NAMES, TRAIN
from vitrail.errors import RunError
from vitrail.evaluators.feature_rank import effective_rank
from vitrail.evaluators.knn import nearest_neighbours
from vitrail.models.kinds import require_vit
from vitrail.objectives.patch_prediction import PatchPrediction
from vitrail.tasks.begin import begin
from vitrail.tasks.inference import ask
from vitrail.tasks.prepare import PreparedData, describe_splits, prepare_data, read_data_record, reopen_data
from vitrail.tasks.run import Run, new_run
from vitrail.tasks.starting import load_start, read_start, write_start
from vitrail.tasks.timing import Stopwatch
from vitrail.training.config import EVALUATION_BATCH, TrainConfig
from vitrail.training.events import Events, TextLog
from vitrail.training.precision import Precision, autocast
from vitrail.training.run_folder import LOG_FILE, lock_run
from vitrail.training.run_state import load_latest_checkpoint
from vitrail.weights.bundle import Bundle, BundleConfig, Sample, save_bundle

NUM_JUDGED = 2_000  # validation pictures, at most, for the objective's own loss
NUM_EXAMINED = 1_000  # pictures, at most, for the loss of guessing and for the features
NUM_NEIGHBOURS = 20
NUM_SAMPLES = 4  # pictures in the bundle
# A run is judged from here on: before, a network may still be on its way to what guessing gives.
JUDGED_AFTER = 0.5  # of its updates
MIN_JUDGED = 100  # updates: a trial of a few is not judged at all
COLLAPSED_RANK = 1.5  # features of all pictures on one line
NOTHING_TO_LEARN = 1e-6  # nats, or squared pixel values: targets that are all the same


def _num_features(config: TrainConfig) -> int:
    return require_vit(config.model, "training without labels").num_features


class PretrainingRun(Run):
    """A run whose objective makes its own targets. Arguments as `Run`.

    Labels serve one purpose: to tell the person who waits how well the nearest neighbours name the validation
    pictures, beside the network before its first update. Nothing is decided by it.

    Attributes:
        guessing_loss: of the best answer that looks at no picture, from training pictures.
        untrained_accuracy: of the nearest neighbours before the first update; None where there is one class.

    Raises:
        RunError: every target is the same.
    """

    def __init__(
        self, config: TrainConfig, prepared: PreparedData, events: Events, start: Bundle | None = None
    ) -> None:
        super().__init__(config, prepared, events, start)
        assert isinstance(self.state.objective, PatchPrediction)
        self.objective: PatchPrediction = self.state.objective
        self.judged = _evenly(self.validation.indices, NUM_JUDGED)
        few = self.loader_of(_evenly(prepared.indices(TRAIN), NUM_EXAMINED))
        pictures = (batch.images.to(self.device) for batch in few.once() if len(batch.indices))
        self.guessing_loss = self.objective.guessing_loss(pictures)
        if self.guessing_loss < NOTHING_TO_LEARN:
            raise RunError(
                f"objective '{config.objective.kind}': every patch of {len(few.indices):,} training pictures has the"
                f" same target, so there is nothing to learn; look at the pictures, or choose another target"
                " (--objective.target pixels)"
            )

        self.untrained_accuracy: float | None = None
        if len(prepared.source.classes) > 1:
            # Before a checkpoint is restored: the model is as the run began.
            self.untrained_accuracy = self._examine_features(self.model)["neighbour_accuracy"]

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The objective's own loss on the validation split beside that of guessing, and how good the features are.

        Raises:
            RunError: the run learns nothing.
        """
        metrics = self._own_loss(self.loader_of(self.judged), self.config.precision)
        metrics["guessing_loss"] = self.guessing_loss
        metrics |= self._examine_features(model)
        if self.untrained_accuracy is not None:
            metrics["untrained_neighbour_accuracy"] = self.untrained_accuracy
        self.events.note(f"step {self.state.step}: {describe_health(metrics, _num_features(self.config))}")
        self.require_learning(metrics)
        return metrics

    @torch.inference_mode()
    def _own_loss(self, loader: Loader, precision: str) -> dict[str, float]:
        """Means over the pictures of `loader`, with the same random choices every time."""
        totals: dict[str, Tensor] = {}
        count = 0
        self.objective.eval()
        for number, batch in enumerate(loader.once()):
            if not len(batch.indices):
                continue
            generator = torch.Generator().manual_seed(step_seed(self.config.seed, number, 2))
            inputs = self.objective.prepare(batch, generator)
            with autocast(self.device, "bfloat16" if precision == "bfloat16" else "float32"):
                loss, metrics = self.objective(inputs, self.state.step)
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, torch.zeros(())) + value.float().cpu() * len(batch.indices)
            count += len(batch.indices)
        if not count:
            raise RunError("no validation picture can be read any more")
        return {name: float(total) / count for name, total in totals.items()}

    def _examine_features(self, model: nn.Module) -> dict[str, float]:
        """The effective rank of up to 1,000 validation pictures' features; and the share of these that the 20 nearest
        of as many training pictures name right, where there are classes."""
        few = [_evenly(indices, NUM_EXAMINED) for indices in (self.prepared.indices(TRAIN), self.validation.indices)]
        train, test = (ask(model, self.loader_of(indices), self.config.preprocessing) for indices in few)
        num_classes = len(self.prepared.source.classes)
        found = {"feature_rank": float("nan")}
        if num_classes > 1:
            found["neighbour_accuracy"] = float("nan")
        is_finite = bool(np.isfinite(train.values).all() and np.isfinite(test.values).all())
        if not is_finite or len(test.values) < 2 or not len(train.values):
            return found
        found["feature_rank"] = effective_rank(test.values)
        if num_classes > 1:
            k = min(NUM_NEIGHBOURS, len(train.values))
            vote = nearest_neighbours(train.values, train.labels, test.values, num_classes, ks=[k])[0]
            found["neighbour_accuracy"] = vote.accuracy(test.labels)
        return found

    def require_learning(self, metrics: Mapping[str, float]) -> None:
        """Raises RunError where half of the run is over and the loss is that of guessing, or the features are one."""
        if self.state.step < max(MIN_JUDGED, JUDGED_AFTER * self.plan.total_steps):
            return
        said = f"stopped after step {self.state.step} of {self.plan.total_steps}: the run learns nothing"
        advice = "a longer warm-up or another learning rate (--optimizer.learning-rate) most often helps"
        if metrics["loss"] >= metrics["guessing_loss"]:
            raise RunError(
                f"{said}, its loss on the validation pictures ({metrics['loss']:.4g}) is not below that of guessing"
                f" ({metrics['guessing_loss']:.4g}); {advice}"
            )
        if metrics["feature_rank"] < COLLAPSED_RANK:
            raise RunError(
                f"{said} of use, the features of all pictures are nearly the same (effective rank"
                f" {metrics['feature_rank']:.3g} of {_num_features(self.config)}); {advice}"
            )

    def time_evaluation(self, precision: Precision = "float32") -> float:
        """Seconds of `validate`, estimated from a part of it; its features are in float32 whatever the precision."""
        rows = self.judged[: 4 * EVALUATION_BATCH]
        begin = time.monotonic()
        self._own_loss(self.loader_of(rows), precision)
        judged = (time.monotonic() - begin) * len(self.judged) / len(rows)
        sizes = (len(self.prepared.indices(TRAIN)), len(self.validation.indices))
        num_examined = sum(min(size, NUM_EXAMINED) for size in sizes)
        examined = self._time_asking(rows) * num_examined / len(rows)
        self.objective.train()
        return judged + examined


def describe_health(metrics: Mapping[str, float], width: int) -> str:
    """One line: "loss 4.03, guessing 5.21; 14.1 % of the colours right; feature rank 23.4 of 192; ..."."""
    parts = [f"loss {metrics['loss']:.4g}, guessing {metrics['guessing_loss']:.4g}"]
    if "accuracy" in metrics:
        parts.append(f"{100 * metrics['accuracy']:.1f} % of the colours right")
    parts.append(f"feature rank {metrics['feature_rank']:.3g} of {width}")
    if "untrained_neighbour_accuracy" in metrics:
        parts.append(
            f"nearest neighbours name {100 * metrics['neighbour_accuracy']:.1f} % right"
            f" (untrained {100 * metrics['untrained_neighbour_accuracy']:.1f} %)"
        )
    return "; ".join(parts)


@dataclass(frozen=True)
class PretrainingResult:
    """A finished run without labels."""

    folder: Path
    config: TrainConfig
    prepared: PreparedData
    best_step: int  # whose weights were kept
    best_validation: Mapping[str, float]  # its health
    num_parameters: int
    durations: Mapping[str, float]  # phase -> seconds

    def describe(self) -> tuple[str, ...]:
        """What a person reads when the command ends."""
        health = describe_health(self.best_validation, _num_features(self.config))
        source = self.prepared.source
        photos = source.spec if len(source.classes) > 1 else "LABELLED_PHOTOS"
        is_better = self.best_validation["loss"] < self.best_validation["guessing_loss"]
        learned = "Features learned without labels" if is_better else "Nothing learned yet, no better than guessing"
        return (
            f"{learned}: {health}.",
            f"Next:   vitrail fit {photos} --weights {self.folder}",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "recipe": self.config.recipe,
            "objective": self.config.objective.kind,
            **{f"validation_{name}": value for name, value in self.best_validation.items()},
            "best_step": self.best_step,
            "num_parameters": self.num_parameters,
            "seconds": {name: round(seconds, 3) for name, seconds in self.durations.items()},
        }


def pretrain(config: TrainConfig, out: str | None, events: Events, command: str = "") -> PretrainingResult:
    """Check, split, train as `config` says on the training pictures; their labels are not looked at.

    Args as `train.train`; raises what it raises.
    """
    watch = Stopwatch()
    source = open_pictures(config.data.source, progress=events.download)
    with new_run(out, source.name, events) as folder:
        with watch.phase("check"):
            prepared = prepare_data(source, config.data, events, labelled=False)
        looked_at = "the classes are not looked at"
        if len(source.classes) == 1:
            looked_at = "one class: loss and feature rank tell how it goes, there is nothing for neighbours to name"
        events.note(f"data: {describe_splits(prepared)}; {looked_at}")
        start = None if config.weights is None else load_start(config.weights, events)
        config = replace(config, data=replace(config.data, source=absolute_spec(config.data.source)))
        run = PretrainingRun(config, prepared, events, None if start is None else start.bundle)
        write_start(folder, start, run.surgery)
        begin(run, folder, None, watch, command)
        return _complete(run, folder, watch)


def resume_pretraining(config: TrainConfig, place: Path, events: Events) -> PretrainingResult:
    """Go on with a run exactly where it stopped. Raises as `fit.resume`."""
    with lock_run(place):
        events.add(TextLog(place / LOG_FILE))
        watch = Stopwatch()
        with watch.phase("check"):
            prepared = reopen_data(config.data, read_data_record(place), place)
        checkpoint, skipped = load_latest_checkpoint(place)
        for sentence in skipped:
            events.warning(sentence)
        start = None
        if checkpoint is None and config.weights is not None:
            start = load_start(config.weights, events).bundle
        run = PretrainingRun(config, prepared, events, start)
        run.restore(checkpoint)
        return _complete(run, place, watch)


def _complete(run: PretrainingRun, folder: Path, watch: Stopwatch) -> PretrainingResult:
    with watch.phase("training"):
        run.train(folder)
    model, best = run.best_model(), run.state.best
    assert best is not None
    result = PretrainingResult(
        folder=folder,
        config=run.config,
        prepared=run.prepared,
        best_step=best.step,
        best_validation=best.metrics,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        durations=watch.phases,
    )
    source = run.prepared.source
    provenance = {
        "data": source.name,  # not its path: a bundle is passed on
        "data_fingerprint": run.prepared.fingerprint,
        "pictures": {SPLIT_NAMES[split]: len(run.prepared.indices(split)) for split in (0, 1, 2)},
        "recipe": run.config.recipe,
        "objective": run.config.objective.kind,
        "starting_weights": _starting_weights(folder),
        "best_step": best.step,
        "versions": {name: importlib.metadata.version(name) for name in ("vitrail", "torch")},
    }
    bundle = BundleConfig(
        model=run.config.model,
        labels=(),
        preprocessing=run.config.preprocessing,
        name=source.name,
        licence=(read_start(folder) or {}).get("licence"),
        provenance=provenance,
        metrics={f"validation_{name}": value for name, value in best.metrics.items()},
    )
    save_bundle(folder / "bundle", model, bundle, _samples(run))
    return result


def _starting_weights(folder: Path) -> dict[str, Any] | None:
    record = read_start(folder)
    return None if record is None else {name: value for name, value in record.items() if name != "certificate"}


def _samples(run: Run) -> list[Sample]:
    source = run.prepared.source
    indices = _evenly(run.validation.indices, NUM_SAMPLES)
    return [(source.key(int(index)), source.open(int(index)).pixels()) for index in indices]


def _evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spaced."""
    return np.asarray(indices[np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))])
