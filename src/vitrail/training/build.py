"""From a config and a model to a state that can be trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vitrail.errors import ConfigError
from vitrail.models.build import Model
from vitrail.models.vit import VisionTransformer
from vitrail.objectives.base import Objective
from vitrail.objectives.config import MaskedPatchesConfig, SupervisedConfig
from vitrail.objectives.masked_patches import MaskedPatches
from vitrail.objectives.next_patch import NextPatch
from vitrail.objectives.supervised import Supervised
from vitrail.training.averaging import Averaged
from vitrail.training.config import TrainConfig
from vitrail.training.optimizer import build_optimizer
from vitrail.training.run_state import RunState


def build_objective(config: TrainConfig, model: Model, class_counts: Sequence[int]) -> Objective:
    """The loss that `config.objective` describes, around `model`. `class_counts` as in `build_state`."""
    objective = config.objective
    if isinstance(objective, SupervisedConfig):
        return Supervised(model, objective, config.batch_augmentation, config.preprocessing, class_counts)
    if not isinstance(model, VisionTransformer):
        raise ConfigError(
            f"objective '{objective.kind}' needs a Vision Transformer, and the model is a {model.config.family}"
        )
    if isinstance(objective, MaskedPatchesConfig):
        return MaskedPatches(model, objective, config.preprocessing)
    return NextPatch(model, objective, config.preprocessing)


def build_state(
    config: TrainConfig, model: Model, class_counts: Sequence[int], device: torch.device | str = "cpu"
) -> RunState:
    """The state of a run before its first update.

    Args:
        model: freshly initialised, or with the weights to start from.
        class_counts: training pictures of each class.
    """
    model.gradient_checkpointing = config.checkpointing
    objective = build_objective(config, model, class_counts).to(device)
    rate = config.averaging.rate
    return RunState(
        objective=objective,
        optimizer=build_optimizer(objective, config.optimizer),
        averaged=None if rate is None else Averaged(objective.model, rate),
    )
