"""Fitting trained weights to another task: another head, another picture size. What was done is told, not guessed."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.layers.position_embed import ResampleMethod, resample_position_embedding
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle

# What may differ without a single weight having another shape or meaning.
_FREE = {
    "image_size",
    "num_classes",
    "dropout_rate",
    "attention_dropout_rate",
    "stochastic_depth_rate",
    "head_bias_init",
    "pre_logits_size",
}
_HEADS = ("head.", "head_dist.", "pre_logits.")


def adapt(
    bundle: Bundle,
    config: ViTConfig,
    labels: tuple[str, ...],
    *,
    generator: torch.Generator | None = None,
    method: ResampleMethod = "bilinear_align_corners",
) -> tuple[VisionTransformer, list[str]]:
    """A model of `config` that starts from the weights of `bundle`.

    The head is kept where the labels are the bundle's, in their order, and otherwise starts at zero, together with the
    hidden layer before it (Dosovitskiy et al. 2021, section 3.2). Learned positions are stretched to another grid.

    Args:
        config: of the new model; num_classes is the number of labels.
        generator: draws what starts afresh, other than the head.
        method: how positions are stretched.
    Returns:
        The model in training mode, and a sentence for everything that is not as it was.
    Raises:
        WeightsError: an architecture that these weights do not fit; names the fields.
    """
    old = bundle.config.model
    if len(labels) != config.num_classes:
        raise WeightsError(f"{len(labels)} labels for a head of {config.num_classes} classes")
    before, after = asdict(old), asdict(config)
    differing = [name for name in after if name not in _FREE and before[name] != after[name]]
    if differing:
        fields = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in differing)
        raise WeightsError(f"{bundle.path}: these weights do not fit the model asked for: {fields}")
    model = VisionTransformer(config, generator=generator)
    keeps_head = labels == bundle.config.labels and old.pre_logits_size == config.pre_logits_size
    report: list[str] = []
    tensors = dict(model.state_dict())
    for name, tensor in bundle.model.state_dict().items():
        if keeps_head or not name.startswith(_HEADS):
            tensors[name] = tensor.clone()
    if not keeps_head:
        report.append(_head_report(bundle, config, labels))
    if old.grid != config.grid:
        report.append(_stretch_positions(tensors, old, config, method))
    model.load_state_dict(tensors)
    return model, report


def _head_report(bundle: Bundle, config: ViTConfig, labels: tuple[str, ...]) -> str:
    sentence = f"head: fresh, starting at zero ({len(bundle.config.labels)} labels -> {len(labels)} others)"
    if len(labels) == len(bundle.config.labels) and set(labels) == set(bundle.config.labels):
        sentence = "head: fresh, starting at zero (the same labels in another order, or another hidden layer)"
    if bundle.config.model.pre_logits_size is not None:
        sentence += "; the hidden layer before it went with it"
    return sentence


def _stretch_positions(tensors: dict[str, Tensor], old: ViTConfig, new: ViTConfig, method: ResampleMethod) -> str:
    """Put resampled position tables into `tensors`; returns the sentence that says so."""
    grids = f"{old.grid[0]}x{old.grid[1]} -> {new.grid[0]}x{new.grid[1]}"
    if old.position_embedding == "relative":
        raise WeightsError(f"relative positions belong to one sequence length; they cannot be stretched ({grids})")
    if old.position_embedding == "learned_1d":
        prefix = old.num_position_prefix
        tensors["pos_embed"] = resample_position_embedding(tensors["pos_embed"], old.grid, new.grid, prefix, method)
    elif old.position_embedding == "learned_2d":
        for name, axis in (("pos_embed.rows", 0), ("pos_embed.columns", 1)):
            line = (1, old.grid[axis]), (1, new.grid[axis])
            tensors[name] = resample_position_embedding(tensors[name], *line, 0, method)
    else:
        return f"positions {grids}: nothing learned, computed anew"
    return f"position embedding {grids} ({method.replace('_', ' ')})"
