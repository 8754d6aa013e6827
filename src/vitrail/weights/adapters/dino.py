"""DINO (Caron et al. 2021, "Emerging properties in self-supervised vision transformers").

Published are backbones under timm's names, and full checkpoints.
A full checkpoint is {"student": module.backbone.*, module.head.*, "teacher": backbone.*, head.*, "optimizer": ...}.
"""

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

_ORDER = ("teacher/", "student/", "state_dict/", "")
_HEAD = re.compile(r"(?:student/|teacher/)(?:module\.)?head\.(?:mlp|last_layer)\.")
# Of a backbone that stands alone: nothing of the other families that share these names.
_OTHERS = re.compile(r"(head|head_dist|fc_norm|attn_pool|pre_logits)\.|dist_token|reg_token|.*\.(ls1\.gamma|gamma_1)$")


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint):
        return None
    prefixes = tree_prefixes(checkpoint)
    full = next((prefix for prefix in prefixes if re.match(r"(teacher|student)/", prefix)), None)
    if full is not None:
        return f"it has '{full}', a network of DINO's training"
    if checkpoint.container != "torch" or len(prefixes) != 1 or prefixes[0] not in ("", "module.", "backbone."):
        return None
    names = [name.removeprefix(prefixes[0]) for name in checkpoint.tensors]
    if "cls_token" not in names or "pos_embed" not in names or any(_OTHERS.match(name) for name in names):
        return None
    return (
        "it is a backbone without a head or a config, under the names that DINO and timm share, which is how DINO's are"
        " published; for one of timm's, whose pictures are prepared in another way, give --from timm"
    )


def describe(checkpoint: Checkpoint) -> Description:
    return imagenet_description(_tree(checkpoint), Stated(table_prefixes=("own",)), "bicubic_offset")


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(_tree(checkpoint), config, _explained)


def unused(name: str) -> str | None:
    return _explained(name) or of_a_copy(name)


def _explained(name: str) -> str | None:
    return training_state(name) or ("the projection head of the pre-training" if _HEAD.match(name) else None)


def _tree(checkpoint: Checkpoint) -> Tree:
    return find_tree(checkpoint, _ORDER)


ADAPTER = Adapter("dino", "DINO", TYPICAL, recognise, describe, entries, unused)
