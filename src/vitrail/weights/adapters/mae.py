"""MAE (He et al. 2022, "Masked autoencoders are scalable vision learners"), pre-trained and fine-tuned."""

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
from vitrail.weights.adapters.timm_shapes import Stated, has_table, imagenet_description, sincos_version
from vitrail.weights.checkpoint import Checkpoint

_ORDER = ("model/", "state_dict/", "")
_DECODER = re.compile(r"(?:^|[./])(decoder_\w+|mask_token)(?:\.|$)")


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint) or not tree_prefixes(checkpoint):
        return None
    decoder = next((name for name in checkpoint.tensors if re.search(r"(^|[./])decoder_(embed|blocks)\.", name)), None)
    if decoder is not None:
        return f"it has '{decoder}', of MAE's decoder"
    if has_table(checkpoint, "sincos_2d_mae"):
        return "its position table is the sine-cosine table of MAE"
    names = checkpoint.tensors
    tuned = {"model/fc_norm.weight", "model/head.weight", "model/cls_token"} <= names.keys()
    if tuned and not any("gamma" in name for name in names):
        return "its 'model' has a head and 'fc_norm', as MAE's fine-tuning saves"
    return None


def describe(checkpoint: Checkpoint) -> Description:
    tree = _tree(checkpoint)
    rows = tree.tensor("pos_embed") if "pos_embed" in tree.names else None
    notes = []
    if sincos_version(rows) is not None:
        notes.append("the fixed position table is kept as the file has it, as a learned one")
    stated = Stated(table_prefixes=("own",))
    description = imagenet_description(tree, stated, "bicubic", notes=notes)
    if min(description.config.image_size) > 224:
        return imagenet_description(tree, stated, "bicubic", crop_fraction=1.0, notes=notes)
    return description


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(_tree(checkpoint), config, _explained)


def unused(name: str) -> str | None:
    return _explained(name) or of_a_copy(name)


def _explained(name: str) -> str | None:
    return training_state(name) or ("the decoder of the pre-training" if _DECODER.search(name) else None)


def _tree(checkpoint: Checkpoint) -> Tree:
    return find_tree(checkpoint, _ORDER, lambda name: None if _DECODER.search(name) else name)


ADAPTER = Adapter(
    "mae",
    "MAE",
    (*TYPICAL, "decoder_embed.weight", "decoder_blocks.{}.norm1.weight"),
    recognise,
    describe,
    entries,
    unused,
)
