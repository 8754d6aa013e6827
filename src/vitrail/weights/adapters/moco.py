"""MoCo v3 (Chen et al. 2021, "An empirical study of training self-supervised vision transformers").

Pre-training saves {"state_dict": module.base_encoder.*, module.momentum_encoder.*, module.predictor.*}, the linear
probe {"state_dict": module.*}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.timm_names import (
    KERNEL,
    TYPICAL,
    Tree,
    find_tree,
    is_hub_config,
    of_a_copy,
    training_state,
    tree_entries,
)
from vitrail.weights.adapters.timm_shapes import Stated, has_table, imagenet_description
from vitrail.weights.checkpoint import Checkpoint

_ENCODERS = ("state_dict/module.base_encoder.", "state_dict/base_encoder.", "module.base_encoder.", "base_encoder.")
_ORDER = (*_ENCODERS, "state_dict/", "model/", "")
# Width -> heads. ViT-S has twice as many heads as everyone else's (section 4.3), which no shape shows.
_NUM_HEADS = {384: 12, 768: 12, 1024: 16, 1280: 16}
_REASONS = {
    r"(^|[./])predictor\.": "the prediction head of the pre-training",
    r"_encoder\.head\.\d+\.": "the projection head of the pre-training",
    r"(^|/)best_acc1$": "an accuracy that was measured",
}


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint):
        return None
    encoder = next(
        (name for name in checkpoint.tensors if re.match(r"(state_dict/)?(module\.)?base_encoder\.", name)), ""
    )
    if encoder:
        return f"it has '{encoder}', the encoder of MoCo v3's pre-training"
    if has_table(checkpoint, "sincos_2d_moco"):
        return "its position table is the sine-cosine table of MoCo v3"
    return None


def describe(checkpoint: Checkpoint) -> Description:
    tree = _tree(checkpoint)
    shape = tree.shape(KERNEL)
    heads = None if shape is None else _NUM_HEADS.get(shape[0])
    if heads is None and checkpoint.choices.num_heads is None:
        raise WeightsError(
            f"{checkpoint.where}: MoCo v3 has no model of this width{'' if shape is None else f', {shape[0]}'}, and"
            " shapes do not tell the number of heads: give --num-heads"
        )
    stated = Stated(
        num_heads=heads,
        table_prefixes=("own",),
        sources={"num_heads": "MoCo v3's models, whose ViT-S has 12 heads"},
    )
    notes = ["the fixed position table is kept as the file has it, as a learned one"]
    if any(".base_encoder." in f".{name}" for name in checkpoint.tensors) and "head.weight" not in tree.names:
        notes.append("it has no classifier: its projection head serves the pre-training alone")
    return imagenet_description(tree, stated, "bicubic", interpolation="bilinear", notes=notes)


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(_tree(checkpoint), config, _explained)


def unused(name: str) -> str | None:
    if "momentum_encoder." in name and not re.search(r"_encoder\.head\.", name):
        return "the momentum encoder, a running average of the encoder"
    return _explained(name) or of_a_copy(name)


def _explained(name: str) -> str | None:
    reasons = (reason for pattern, reason in _REASONS.items() if re.search(pattern, name))
    return training_state(name) or next(reasons, None)


def _tree(checkpoint: Checkpoint) -> Tree:
    return find_tree(checkpoint, _ORDER, lambda name: None if re.match(r"head\.\d+\.", name) else name)


ADAPTER = Adapter("moco", "MoCo v3", TYPICAL, recognise, describe, entries, unused)
