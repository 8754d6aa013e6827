"""A whole tiny run on the digits, for the tests of training; also a program that kills and resumes itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.data.batches import normalize
from vitrail.data.config import Augmentation, BatchAugmentation, DataConfig, LoaderConfig, Preprocessing
from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.transforms import EvaluationTransform, TrainingTransform
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.config import SupervisedConfig
from vitrail.training.build import build_state
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.events import Events, JsonLines, Sink
from vitrail.training.loop import train
from vitrail.training.run_state import RunState, load_latest_checkpoint, restore
from vitrail.training.schedule import Plan, make_plan

NUM_TRAIN, NUM_VALIDATION = 120, 60
PREPROCESSING = Preprocessing(image_size=(8, 8), mean=(0.5,), std=(0.5,))
# Everything that draws random numbers or keeps a state of its own is on: dropout, MixUp, shifts, averaging, parts.
CONFIG = TrainConfig(
    recipe="toy",
    data=DataConfig("digits"),
    model=ViTConfig(
        image_size=(8, 8),
        patch_size=4,
        in_channels=1,
        num_classes=10,
        width=16,
        depth=2,
        num_heads=2,
        mlp_size=32,
        pooling="gap",
        class_token=False,
        dropout_rate=0.1,
        stochastic_depth_rate=0.1,
    ),
    preprocessing=PREPROCESSING,
    augmentation=Augmentation(crop="shift", max_shift=1, flip_rate=0.5),
    batch_augmentation=BatchAugmentation(mixup_alpha=0.2),
    loader=LoaderConfig(num_workers=0),
    objective=SupervisedConfig(label_smoothing=0.1),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5),
    averaging=AveragingConfig(rate=0.9),
    batch_size=24,
    accumulation_steps=2,
    precision="float32",
    evaluate_every_epochs=0.4,
    checkpoint_every_steps=2,
)


class Toy:
    """The parts of a toy run. `folder` None: nothing is written."""

    def __init__(self, config: TrainConfig = CONFIG, folder: Path | None = None) -> None:
        self.config, self.folder = config, folder
        self.source = open_source("digits")
        everything = np.arange(len(self.source))
        self.train_indices = everything[:NUM_TRAIN]
        transform = TrainingTransform(config.preprocessing, config.augmentation)
        self.loader = Loader(
            self.source,
            self.train_indices,
            transform,
            batch_size=config.batch_size,
            seed=config.seed,
            config=config.loader,
        )
        self.validation = Loader(
            self.source,
            everything[NUM_TRAIN : NUM_TRAIN + NUM_VALIDATION],
            EvaluationTransform(config.preprocessing),
            batch_size=64,
            seed=0,
            config=LoaderConfig(num_workers=0),
        )
        self.plan: Plan = make_plan(config, self.loader.steps_per_epoch)

    def fresh_state(self) -> RunState:
        model = VisionTransformer(self.config.model, generator=torch.Generator().manual_seed(self.config.seed))
        counts = np.bincount(self.source.labels[self.train_indices], minlength=10)
        return build_state(self.config, model, counts.tolist())

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        right, loss, count = 0, 0.0, 0
        with torch.inference_mode():
            for batch in self.validation.once():
                logits = model(normalize(batch.images, self.config.preprocessing))
                right += int((logits.argmax(dim=1) == batch.labels).sum())
                loss += float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
                count += len(batch.labels)
        return {"accuracy": right / count, "loss": loss / count}

    def run(self, *sinks: Sink, **options: Any) -> RunState:
        """From the newest checkpoint in the folder, or from the start, to the end."""
        state = self.fresh_state()
        checkpoint = None
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
            checkpoint, _ = load_latest_checkpoint(self.folder)
            sinks = (JsonLines(self.folder / "metrics.jsonl", checkpoint.step if checkpoint else 0), *sinks)
        if checkpoint is not None:
            restore(state, checkpoint)
        with Events(*sinks) as events:
            options = {"evaluate": self.evaluate, "key": self.source.key} | options
            train(state, self.loader, self.config, self.plan, folder=self.folder, events=events, **options)
        return state
