"""DINOv2 (Oquab et al. 2023) and its models with registers (Darcet et al. 2023), as their repository publishes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

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
    tree_prefixes,
)
from vitrail.weights.adapters.timm_shapes import Stated, imagenet_description
from vitrail.weights.checkpoint import Checkpoint

_ORDER = ("teacher/", "student/", "model/", "")
_RENAMED = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}
# Blocks in chunks count on through all of them: "blocks.<chunk>.<block>.norm1.weight".
_CHUNKED = re.compile(r"blocks\.\d+\.(\d+\.)")
_REASONS = {
    r"(^|[./])mask_token$": "the mask token of the pre-training",
    r"(^|[./])(dino_head|ibot_head)\.": "a projection head of the pre-training",
}


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint) or not tree_prefixes(checkpoint):
        return None
    for prefix in tree_prefixes(checkpoint):
        names = checkpoint.tensors
        scaled = any(re.match(r"blocks\.(\d+\.)+ls1\.gamma", name.removeprefix(prefix)) for name in names)
        for name in ("register_tokens", "mask_token"):
            if scaled and f"{prefix}{name}" in names:
                return f"it has '{prefix}{name}' and LayerScale, as DINOv2 has"
        chunked = next((name for name in names if _CHUNKED.match(name.removeprefix(prefix))), None)
        if chunked is not None:
            return f"it has '{chunked}', a block in a chunk, as DINOv2 trains"
    return None


def describe(checkpoint: Checkpoint) -> Description:
    tree = _tree(checkpoint)
    shape, head = tree.shape(KERNEL), tree.shape("head.weight")
    width = 0 if shape is None else shape[0]
    if head is not None and head[-1] != 2 * width:
        raise WeightsError(
            f"{checkpoint.where}: 'linear_head.weight' {head} reads {head[-1]} features of several blocks; vitrail has"
            f" the head on the last block alone, of {2 * width}"
        )
    stated = Stated(
        num_heads=width // 64 if width and width % 64 == 0 else None,
        table_prefixes=("own",),
        sources={"num_heads": "heads of 64 features, as DINOv2's models have"},
    )
    has_registers = "reg_token" in tree.names
    resampling = "bicubic_antialias" if has_registers else "bicubic_offset"
    # At the size of the position table the whole picture is seen, as timm publishes these weights.
    return imagenet_description(tree, stated, resampling, crop_fraction=1.0)  # type: ignore[arg-type]


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(_tree(checkpoint), config, _explained)


def unused(name: str) -> str | None:
    return _explained(name) or of_a_copy(name)


def _explained(name: str) -> str | None:
    reasons = (reason for pattern, reason in _REASONS.items() if re.search(pattern, name))
    return training_state(name) or next(reasons, None)


def _timm_name(name: str) -> str | None:
    if name == "mask_token":
        return None
    name = _CHUNKED.sub(r"blocks.\1", name)
    for theirs, timm_name in _RENAMED.items():
        name = name.replace(theirs, timm_name)
    return name


def _tree(checkpoint: Checkpoint) -> Tree:
    tree = find_tree(checkpoint, _ORDER, _timm_name)
    # The classifier of the repository's hub: a linear head beside the backbone.
    heads = {f"head.{kind}": f"linear_head.{kind}" for kind in ("weight", "bias")}
    heads = {timm_name: name for timm_name, name in heads.items() if name in checkpoint.tensors}
    kept = {timm_name: name for timm_name, name in tree.names.items() if name not in heads.values()}
    return replace(tree, names={**kept, **heads})


ADAPTER = Adapter(
    "dinov2", "DINOv2", (*TYPICAL, "mask_token", "blocks.{}.ls1.gamma"), recognise, describe, entries, unused
)
