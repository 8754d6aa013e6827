"""One run's parts, built from its config and its data: the same for a new run and for one that goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vitrail.data.loader import Loader
from vitrail.data.split import TRAIN, VALIDATION
from vitrail.data.transforms import EvaluationTransform, TrainingTransform
from vitrail.errors import RunError
from vitrail.models.build import Model, build_model
from vitrail.models.config import ViTConfig
from vitrail.tasks.inference import Answers, ask
from vitrail.tasks.prepare import PreparedData
from vitrail.training.allocation import give_back_freed_memory, keep_freed_memory
from vitrail.training.build import build_state
from vitrail.training.config import EVALUATION_BATCH, TrainConfig
from vitrail.training.events import Events, JsonLines, TensorBoard, TextLog
from vitrail.training.loop import train
from vitrail.training.precision import Precision
from vitrail.training.run_folder import CONFIG_FILE, LOG_FILE, METRICS_FILE, create_run_folder, lock_run
from vitrail.training.run_state import Best, Checkpoint, restore
from vitrail.training.schedule import Plan, make_plan
from vitrail.weights.bundle import Bundle
from vitrail.weights.surgery import adapt


@contextmanager
def new_run(out: str | None, name: str, events: Events) -> Iterator[Path]:
    """The folder of a new run, locked, with its log listening; removed again if the run fails before it is described.

    Raises:
        RunError: the folder is taken or cannot be written; found out before any work.
    """
    folder = create_run_folder(None if out is None else Path(out), name)
    with lock_run(folder):
        events.add(TextLog(folder / LOG_FILE))
        try:
            yield folder
        except BaseException:
            if not (folder / CONFIG_FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


class Run:
    """A run's parts, built from its config and data; the same for a new run and for one that goes on.

    Loaders, model and training state.

    Args:
        start: the weights that config.weights names, where they are needed: not for a run that goes on from a
            checkpoint.
    """

    def __init__(
        self, config: TrainConfig, prepared: PreparedData, events: Events, start: Bundle | None = None
    ) -> None:
        self.surgery: list[str] = []  # what was done to the starting weights
        self.config, self.prepared, self.events = config, prepared, events
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu" and config.checkpointing:
            give_back_freed_memory()
        elif self.device.type == "cpu" and isinstance(config.model, ViTConfig) and config.model.stem == "patch":
            keep_freed_memory()
        self.model = self._model(start)
        self.state = build_state(config, self.model, prepared.class_counts(TRAIN).tolist(), self.device)
        self.loader = Loader(
            prepared.source,
            prepared.indices(TRAIN),
            TrainingTransform(config.preprocessing, config.augmentation),
            batch_size=config.batch_size,
            seed=config.seed,
            config=config.loader,
        )
        self.has_validation = bool(len(prepared.indices(VALIDATION)))

    @cached_property
    def validation(self) -> Loader:
        return self.evaluation_loader(VALIDATION)

    @property
    def plan(self) -> Plan:
        return make_plan(self.config, self.loader.steps_per_epoch)

    def evaluation_loader(self, split: int) -> Loader:
        return self.loader_of(self.prepared.indices(split))

    def loader_of(self, indices: npt.NDArray[np.int64]) -> Loader:
        """These pictures as evaluation sees them."""
        return Loader(
            self.prepared.source,
            indices,
            EvaluationTransform(self.config.preprocessing),
            batch_size=EVALUATION_BATCH,
            seed=self.config.seed,
            config=self.config.loader,
        )

    def _model(self, start: Bundle | None) -> Model:
        config = self.config
        generator = torch.Generator().manual_seed(config.seed)
        if start is None:
            return build_model(config.model, generator=generator)
        labels = self.prepared.source.classes if config.model.num_classes else ()
        if config.fresh_head:  # as if it had been made for other classes
            start = replace(start, config=replace(start.config, labels=()))
        model, self.surgery = adapt(start, config.model, labels, generator=generator)
        for sentence in self.surgery:
            self.events.note(f"starting weights: {sentence}")
        return model

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and log loss on the validation split, in the precision of the training."""
        precision: Precision = "bfloat16" if self.config.precision == "bfloat16" else "float32"
        answers = ask(model, self.validation, self.config.preprocessing, precision=precision)
        return accuracy_and_loss(answers)

    def time_evaluation(self, precision: Precision = "float32") -> float:
        """Seconds of one pass over the validation split, estimated from a part of it.

        Args:
            precision: float32 as at the end of a run, or that of the training, as on the way.
        """
        if not self.has_validation:
            return 0.0
        rows = self.validation.indices[: 4 * EVALUATION_BATCH]
        return self._time_asking(rows, precision) * len(self.validation.indices) / len(rows)

    def _time_asking(self, rows: npt.NDArray[np.int64], precision: Precision = "float32") -> float:
        begin = time.monotonic()
        ask(self.state.objective.model, self.loader_of(rows), self.config.preprocessing, precision=precision)
        return time.monotonic() - begin

    def train(self, folder: Path) -> None:
        """To the end of the plan, or raises what the loop raises."""
        after_step = self.state.step  # what a killed session reported beyond its last checkpoint happens again
        self.events.add(JsonLines(folder / METRICS_FILE, after_step))
        if self.config.tensorboard:
            self.events.add(TensorBoard(folder / "tensorboard", after_step))
        train(
            self.state,
            self.loader,
            self.config,
            self.plan,
            folder=folder,
            events=self.events,
            evaluate=self.validate if self.has_validation else None,
            key=self.prepared.source.key,
        )

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go back to a checkpoint."""
        if checkpoint is None:
            self.events.note("no checkpoint was saved: starting from the first step")
            return
        restore(self.state, checkpoint)
        self.events.note(f"going on after step {self.state.step} of {self.plan.total_steps}")

    @property
    def kept(self) -> Best:
        """The best evaluation with its weights; without validation pictures the weights of now, and no metrics.

        Raises:
            RunError: no evaluation was finite, so there is nothing worth keeping.
        """
        state = self.state
        if not self.has_validation:
            model = state.objective.model if state.averaged is None else state.averaged.model
            return Best(state.step, (), {}, model.state_dict())
        if state.best is None:
            raise RunError("no evaluation gave finite numbers, so there are no weights worth keeping")
        return state.best

    def best_model(self) -> Model:
        """The weights that are kept, in a model of their own. Raises as `kept`."""
        model = build_model(self.config.model, initialize=False)
        model.load_state_dict(self.kept.weights, strict=True)
        return model.to(self.device)


def accuracy_and_loss(answers: Answers) -> dict[str, float]:
    """{"accuracy", "loss"}: the loss is the mean negative log probability of the label, in nats."""
    shifted = answers.values.astype(np.float64) - answers.values.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = np.take_along_axis(log_probabilities, answers.labels[:, None], axis=1)
    return {
        "accuracy": float((answers.values.argmax(axis=1) == answers.labels).mean()),
        "loss": float(-own.mean()),
    }


def resolved(config: TrainConfig, prepared: PreparedData) -> TrainConfig:
    """The config with what only the data can say: the number of classes."""
    return replace(config, model=replace(config.model, num_classes=len(prepared.source.classes)))
