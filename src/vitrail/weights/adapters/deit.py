"""DeiT (Touvron et al. 2021) and DeiT III (Touvron et al. 2022), as their repository saves them: {"model": ...}."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.timm_names import (
    TYPICAL,
    Tree,
    find_tree,
    is_hub_config,
    of_a_copy,
    training_state,
    tree_entries,
    tree_prefixes,
)
from vitrail.weights.adapters.timm_shapes import Stated, imagenet_description
from vitrail.weights.checkpoint import Checkpoint

_ORDER = ("model/", "model_ema/", "")


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint) or checkpoint.container != "torch":
        return None
    for prefix in tree_prefixes(checkpoint):
        if f"{prefix}dist_token" in checkpoint.tensors:
            return f"it has '{prefix}dist_token', DeiT's distillation token"
        if f"{prefix}blocks.0.gamma_1" in checkpoint.tensors and f"{prefix}pos_embed" in checkpoint.tensors:
            return f"it has '{prefix}blocks.0.gamma_1', the LayerScale of DeiT III"
        if prefix == "model/" and "model/head.weight" in checkpoint.tensors:
            return "its 'model' has timm's names and a head, as DeiT's training saves"
    return None


def describe(checkpoint: Checkpoint) -> Description:
    tree = _tree(checkpoint)
    notes = []
    if "dist_token" in tree.names:
        notes.append("the answers of the two heads, of class and distillation token, are averaged")
    return imagenet_description(tree, Stated(layer_scale_init=1e-4), "bicubic", notes=notes)


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(_tree(checkpoint), config, training_state)


def unused(name: str) -> str | None:
    return training_state(name) or of_a_copy(name)


def _tree(checkpoint: Checkpoint) -> Tree:
    return find_tree(checkpoint, _ORDER, lambda name: re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name))


ADAPTER = Adapter("deit", "DeiT", TYPICAL, recognise, describe, entries, unused)
