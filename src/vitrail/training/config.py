"""Everything that decides what a training run computes, as frozen dataclasses; free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vitrail.data.config import Augmentation, BatchAugmentation, DataConfig, LoaderConfig, Preprocessing
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.objectives.config import ObjectiveConfig, SupervisedConfig

EVALUATION_BATCH = 64  # pictures


@dataclass(frozen=True)
class OptimizerConfig:
    # "muon": orthogonalised momentum for kernels, AdamW for heads and all that is no matrix (Jordan et al. 2024).
    name: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: float = 1e-3  # at the peak of the schedule
    kernel_rate: float = 1.0  # muon: learning rate of the orthogonalised kernels, as a multiple of learning_rate
    # AdamW's coefficient: each step takes learning_rate * weight_decay off kernels (matrices and convolutions) only;
    # biases, norms, tokens, positions and LayerScale are left alone (big_vision).
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9  # sgd; for muon 0.95 is usual
    layer_decay: float = 1.0  # learning rate of block i times layer_decay ** (depth - i); 1 is off
    clip_norm: float | None = 1.0  # global norm of all gradients

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate {self.learning_rate} is not positive")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay {self.layer_decay} is not in (0, 1]")


@dataclass(frozen=True)
class ScheduleConfig:
    epochs: float = 100.0  # passes over the training pictures
    steps: int | None = None  # in place of epochs, where it is given
    warmup_epochs: float = 5.0  # linear, from 0 at the first step
    # "stair": tenfold down at 30, 60 and 90 % of the steps (BiT-HyperRule, Kolesnikov et al. 2020).
    decay: Literal["cosine", "linear", "constant", "stair"] = "cosine"
    end_learning_rate: float = 0.0  # "linear" only; the paper's code ends at 1e-5

    def __post_init__(self) -> None:
        if self.epochs <= 0 or (self.steps is not None and self.steps < 1):
            raise ConfigError(f"epochs {self.epochs}, steps {self.steps}: nothing to train")


@dataclass(frozen=True)
class AveragingConfig:
    """Polyak averaging of the weights (Dosovitskiy et al. 2021, section 4.1: factor 0.9999); evaluated and kept in
    place of the raw weights. The factor is warmed up as min(rate, (1 + step) / (10 + step))."""

    rate: float | None = None  # None: off


@dataclass(frozen=True)
class TrainConfig:
    """One run, whole: written to config.json with every field resolved, and enough to repeat the run."""

    recipe: str
    data: DataConfig
    model: ModelConfig
    preprocessing: Preprocessing
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch_augmentation: BatchAugmentation = field(default_factory=BatchAugmentation)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    objective: ObjectiveConfig = field(default_factory=SupervisedConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    batch_size: int = 64  # pictures an update
    accumulation_steps: int = 1  # micro-batches an update: memory for time
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: by a measured trial, then recorded
    num_threads: int | None = None  # of torch on the CPU; None: by the same trial. Another number may change last bits
    # Encoder blocks through the kernels of training/fused_block.py, on a CPU. None: by the same trial, then recorded.
    # On a machine that cannot have them last bits may differ.
    fused_blocks: bool | None = None
    compile: bool = False
    checkpointing: bool = False  # recompute blocks in the backward pass: memory for time
    weights: str | None = None  # a bundle to start from
    fresh_head: bool = False  # start with a new head even where the weights know the same classes
    evaluate_every_epochs: float = 1.0
    early_stopping_epochs: float | None = None  # without a better validation accuracy
    checkpoint_every_minutes: float = 5.0
    checkpoint_every_steps: int | None = None  # in addition, exactly at its multiples
    keep_checkpoints: int = 2
    # Training pictures that the run's folder keeps to be found again by their features (tasks/nearest.py); 0: none.
    nearest_pictures: int = 20_000
    tensorboard: bool = False  # also write scalars for TensorBoard (the extra vitrail[tensorboard])

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                f"batch_size {self.batch_size} is not divisible by accumulation_steps {self.accumulation_steps}"
            )
        if self.nearest_pictures < 0:
            raise ConfigError(f"nearest_pictures {self.nearest_pictures} is negative; 0 keeps none")
        if not isinstance(self.objective, SupervisedConfig):
            self._check_without_labels()
        if self.checkpointing and isinstance(self.model, TimmConfig):
            raise ConfigError(f"checkpointing: a {self.model.family}, keeps its activations here; leave it off")
        if self.model.image_size != self.preprocessing.image_size:
            raise ConfigError(
                f"model.image_size {self.model.image_size} is not preprocessing.image_size"
                f" {self.preprocessing.image_size}"
            )
        if self.model.in_channels != self.preprocessing.num_channels:
            raise ConfigError(
                f"model.in_channels {self.model.in_channels} is not the number of preprocessing.mean values"
                f" ({self.preprocessing.num_channels})"
            )

    def _check_without_labels(self) -> None:
        kind = self.objective.kind
        if not isinstance(self.model, ViTConfig):
            raise ConfigError(f"objective '{kind}' needs a Vision Transformer, and model is a {self.model.family}")
        if self.model.num_classes:
            raise ConfigError(
                f"model.num_classes {self.model.num_classes}: objective '{kind}' has no classes; set it to 0"
            )
        if self.data.validation_share == 0:
            raise ConfigError(
                f"data.validation_share 0: objective '{kind}' is watched on validation pictures; give it a share"
            )
        if self.batch_augmentation != BatchAugmentation():
            raise ConfigError(f"batch_augmentation mixes labels, which objective '{kind}' has not; leave it off")
        if self.averaging.rate is not None:
            raise ConfigError(
                f"averaging.rate {self.averaging.rate}: objective '{kind}' is evaluated with networks of its own, which"
                " are not averaged; set it to None"
            )
