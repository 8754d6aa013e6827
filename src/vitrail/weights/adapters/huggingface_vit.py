"""Hugging Face ViT, and the encoders of its MAE and MSN: google/vit-base-patch16-224, facebook/vit-mae-base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description, Model, Writing
from vitrail.weights.adapters.huggingface_fields import (
    FROM_PRETRAINED,
    architecture,
    build_config,
    read_config,
    read_labels,
    recognise,
    write_config,
)
from vitrail.weights.adapters.huggingface_names import (
    Spelling,
    block_entries,
    embedding_entries,
    find_spelling,
    read_shapes,
    written_spelling,
)
from vitrail.weights.adapters.huggingface_preprocessor import IMAGENET_CUT, VIT, read_preprocessing, write_preprocessing
from vitrail.weights.adapters.layer_entries import linear
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.shape_rules import SHAPES
from vitrail.weights.checkpoint import Checkpoint

NAME = "huggingface_vit"
NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_DEFAULTS = {"vit": DEFAULTS, "vit_mae": DEFAULTS, "vit_msn": {**DEFAULTS, "layer_norm_eps": 1e-6}}
_UNUSED = {
    r"(vit\.)?pooler\.dense\.(weight|bias)": "the pooler is not used by the classifier",
    r"(vit\.)?embeddings\.mask_token": "the mask token of the pre-training",
    r"decoder\..*": "the decoder of the pre-training",
}


def mlp_names(spelling: Spelling) -> tuple[str, str]:
    """The two layers of the MLP of ViT and DeiT."""
    return ("mlp.fc1", "mlp.fc2") if spelling.is_new else ("intermediate.dense", "output.dense")


def mlp_entries(spelling: Spelling, index: int) -> list[Entry]:
    first, second = mlp_names(spelling)
    block, layer = f"blocks.{index}.mlp.", spelling.layer.format(index)
    return [*linear(f"{block}fc1", f"{layer}{first}"), *linear(f"{block}fc2", f"{layer}{second}")]


def describe(checkpoint: Checkpoint) -> Description:
    said = read_config(checkpoint, _DEFAULTS, "vit")
    spelling = find_spelling(checkpoint)
    shapes = read_shapes(checkpoint, spelling, mlp_names(spelling)[1])
    said.agree("intermediate_size", shapes.mlp_size)
    fields, sources = architecture(checkpoint, said, shapes, prefix_rows=1, heads_of_64=False)
    head = checkpoint.shape("classifier.weight")
    config = build_config(checkpoint.where, {**fields, "num_classes": head[0] if head else 0})
    is_mae = said.values.get("model_type") == "vit_mae"
    preprocessing, picture_sources, notes = read_preprocessing(
        checkpoint, config.image_size, config.in_channels, IMAGENET_CUT if is_mae else VIT
    )
    labels, label_source = read_labels(checkpoint, config.num_classes)
    sources |= {**picture_sources, "labels": label_source, "pooling": "the family's rule", "class_token": SHAPES}
    return Description(config, preprocessing, labels, sources, notes=notes, resampling="bicubic")


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return _entries(config, find_spelling(checkpoint))


def _entries(config: ViTConfig, spelling: Spelling) -> list[Entry]:
    found = embedding_entries(config, spelling, rows=1)
    for index in range(config.depth):
        found += [*block_entries(config, spelling, index, NORMS), *mlp_entries(spelling, index)]
    found += linear("norm", f"{spelling.encoder}layernorm")
    return found + (linear("head", "classifier") if config.num_classes else [])


def unused(name: str) -> str | None:
    return next((reason for pattern, reason in _UNUSED.items() if re.fullmatch(pattern, name)), None)


def write(model: Model[ViTConfig]) -> Writing:
    """ViTForImageClassification; ViTModel without its pooler where there is no head."""
    config = model.config
    has_head = config.num_classes > 0
    kind = "ViTForImageClassification" if has_head else "ViTModel"
    bare = "transformers.ViTModel.from_pretrained('{folder}', add_pooling_layer=False)"
    return Writing(
        weights_file="model.safetensors",
        entries=_entries(config, written_spelling("vit." if has_head else "")),
        files={
            "config.json": {**write_config(model, "vit", kind), "intermediate_size": config.mlp_size},
            "preprocessor_config.json": write_preprocessing(model.preprocessing),
        },
        how_to_load=FROM_PRETRAINED if has_head else bare,
    )


ADAPTER = Adapter(
    name=NAME,
    title="Hugging Face ViT",
    typical=(
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.{}.attention.attention.query.weight",
        "encoder.layer.{}.layernorm_before.weight",
        "encoder.layer.{}.intermediate.dense.weight",
    ),
    recognise=lambda checkpoint: recognise(checkpoint, NAME),
    describe=describe,
    entries=entries,
    unused=unused,
)
