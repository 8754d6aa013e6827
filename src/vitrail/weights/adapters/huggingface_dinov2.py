"""Hugging Face DINOv2, with registers or without: facebook/dinov2-base, facebook/dinov2-with-registers-base.

Its classifier reads the class token and the mean of the patch tokens side by side (Oquab et al. 2024, appendix B.3). It
is also the only class of transformers with LayerScale, register tokens or gated MLPs, so other models with these are
written as it: a model without LayerScale gets factors of one, a head on the class token alone zeros for the mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description, Model, Writing
from vitrail.weights.adapters.huggingface_fields import (
    FROM_PRETRAINED,
    Said,
    Shapes,
    architecture,
    build_config,
    contradiction,
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
from vitrail.weights.adapters.huggingface_preprocessor import IMAGENET_CUT, read_preprocessing, write_preprocessing
from vitrail.weights.adapters.huggingface_vit import DEFAULTS
from vitrail.weights.adapters.layer_entries import linear
from vitrail.weights.adapters.mapping import Codec, Entry
from vitrail.weights.adapters.shape_rules import SHAPES
from vitrail.weights.checkpoint import Checkpoint

NAME = "huggingface_dinov2"
_DEFAULTS = {**DEFAULTS, "layer_norm_eps": 1e-6, "layerscale_value": 1.0, "drop_path_rate": 0.0, "mlp_ratio": 4}
_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_MASK_TOKEN = r"(dinov2(_with_registers)?\.)?embeddings\.mask_token"
_GATED = ("mlp.weights_in", "mlp.weights_out")
_GATED_APART = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # transformers 5 in memory
_LARGEST_RATIO = 64

CONCATENATED = Codec(lambda gate, up: torch.cat([gate, up]), lambda tensor: tuple(tensor.chunk(2)))


def _only_ones(bias: Tensor, factors: Tensor) -> Tensor:
    if (factors != 1).any():
        raise ValueError("the factors of LayerScale are not one, and the model has none")
    return bias


def _only_class_token(weight: Tensor) -> Tensor:
    width = weight.shape[1] // 2
    if weight[:, width:].count_nonzero():
        raise ValueError("the head reads the mean of the patches too, and the model's does not")
    return weight[:, :width]


# The bias before LayerScale, and the factors of a model without it.
WITH_ONES = Codec(_only_ones, lambda bias: (bias, torch.ones_like(bias)))
# (classes, width): the half of the head that reads the class token.
CLASS_TOKEN_HALF = Codec(_only_class_token, lambda weight: (torch.cat([weight, torch.zeros_like(weight)], dim=1),))
# transformers wants a mask token, which no picture ever meets outside the pre-training.
WITH_MASK_TOKEN = Codec(lambda token, mask: token, lambda token: (token, torch.zeros_like(token[0])))


def describe(checkpoint: Checkpoint) -> Description:
    said = read_config(checkpoint, {"dinov2": _DEFAULTS}, "dinov2")
    spelling = find_spelling(checkpoint)
    first = spelling.layer.format(0)
    gated = _gated_names(checkpoint, spelling)
    shapes = read_shapes(checkpoint, spelling, gated[-1] if gated else "mlp.fc2")
    _require_mlp(said, shapes, gated is not None)
    fields, sources = architecture(checkpoint, said, shapes, prefix_rows=1, heads_of_64=True)
    if gated:
        fields["activation"], sources["activation"] = "swiglu", SHAPES
    registers = checkpoint.shape(f"{spelling.encoder}embeddings.register_tokens")
    num_registers = registers[1] if registers else 0
    said.agree("num_register_tokens", num_registers)
    head = checkpoint.shape("classifier.weight")
    has_scale = f"{first}layer_scale1.lambda1" in checkpoint.tensors
    config = build_config(
        checkpoint.where,
        {
            **fields,
            "num_classes": head[0] if head else 0,
            "num_register_tokens": num_registers,
            "pooling": "token_and_gap" if head else "token",
            "layer_scale_init": float(said["layerscale_value"]) if has_scale else None,
            "stochastic_depth_rate": float(said["drop_path_rate"]),
        },
    )
    preprocessing, picture_sources, notes = read_preprocessing(
        checkpoint, config.image_size, config.in_channels, IMAGENET_CUT
    )
    labels, label_source = read_labels(checkpoint, config.num_classes)
    sources |= {**picture_sources, "labels": label_source, "pooling": SHAPES, "class_token": SHAPES}
    return Description(
        config,
        preprocessing,
        labels,
        sources,
        notes=notes,
        resampling="bicubic_antialias" if num_registers else "bicubic_offset",
    )


def _gated_names(checkpoint: Checkpoint, spelling: Spelling) -> tuple[str, ...] | None:
    first = spelling.layer.format(0)
    for names in (_GATED, _GATED_APART):
        if f"{first}{names[0]}.weight" in checkpoint.tensors:
            return names
    return None


def _require_mlp(said: Said, shapes: Shapes, is_gated: bool) -> None:
    said.agree("use_swiglu_ffn", is_gated)
    ratio = said.values.get("mlp_ratio")
    if ratio is not None and _mlp_size(shapes.width, ratio, is_gated) != shapes.mlp_size:
        raise contradiction(
            said.where,
            f"mlp_ratio {ratio}, so {_mlp_size(shapes.width, ratio, is_gated)} hidden features of the MLP",
            f"{shapes.mlp_size}",
        )


def _mlp_size(width: int, ratio: float, is_gated: bool) -> int:
    """Hidden features; of gated MLPs two thirds of them, up to a multiple of 8 (Shazeer 2020, section 3)."""
    size = int(width * ratio)
    return (int(size * 2 / 3) + 7) // 8 * 8 if is_gated else size


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    spelling = find_spelling(checkpoint)
    return _entries(config, spelling, _gated_names(checkpoint, spelling) or _GATED)


def _entries(config: ViTConfig, spelling: Spelling, gated: tuple[str, ...]) -> list[Entry]:
    found = embedding_entries(config, spelling, rows=1)
    if config.num_register_tokens:
        found.append(Entry("reg_token", (f"{spelling.encoder}embeddings.register_tokens",)))
    for index in range(config.depth):
        block, layer = f"blocks.{index}.", spelling.layer.format(index)
        found += [
            *block_entries(config, spelling, index, _NORMS),
            *_mlp_entries(config, block, layer, gated),
        ]
        scales = {f"{block}ls{i}.gamma": f"{layer}layer_scale{i}.lambda1" for i in (1, 2)}
        if config.layer_scale_init is not None:
            found += [Entry(native, (foreign,)) for native, foreign in scales.items()]
        else:
            found = _with_factors_of_one(found, [f"{block}attn.proj.bias", f"{block}mlp.fc2.bias"], [*scales.values()])
    found += linear("norm", f"{spelling.encoder}layernorm")
    if config.num_classes:
        weight, bias = linear("head", "classifier")
        found += [weight if config.pooling == "token_and_gap" else replace(weight, codec=CLASS_TOKEN_HALF), bias]
    return found


def _mlp_entries(config: ViTConfig, block: str, layer: str, gated: tuple[str, ...]) -> list[Entry]:
    if config.activation != "swiglu":
        return [*linear(f"{block}mlp.fc1", f"{layer}mlp.fc1"), *linear(f"{block}mlp.fc2", f"{layer}mlp.fc2")]
    *inputs, output = gated
    first = [
        Entry(f"{block}mlp.fc1.{kind}", tuple(f"{layer}{name}.{kind}" for name in inputs))
        for kind in ("weight", "bias")
    ]
    if len(inputs) == 2:
        first = [replace(entry, codec=CONCATENATED) for entry in first]
    return [*first, *linear(f"{block}mlp.fc2", f"{layer}{output}")]


def _with_factors_of_one(entries: list[Entry], natives: list[str], factors: list[str]) -> list[Entry]:
    wanted = dict(zip(natives, factors, strict=True))
    return [
        Entry(entry.native, (*entry.foreign, wanted[entry.native]), WITH_ONES) if entry.native in wanted else entry
        for entry in entries
    ]


def unused(name: str) -> str | None:
    return "the mask token of the pre-training" if re.fullmatch(_MASK_TOKEN, name) else None


def write(model: Model[ViTConfig]) -> Writing:
    """Dinov2ForImageClassification or Dinov2Model, both also WithRegisters.

    Raises:
        WeightsError: an MLP whose size is no whole multiple of the width, or pictures that are no squares.
    """
    config = model.config
    height, width = config.image_size
    if height != width:
        raise WeightsError(
            f"image_size {height}x{width}: transformers' DINOv2, which alone has LayerScale and registers, stretches a"
            " square position table for pictures that are no squares; it cannot say this model"
        )
    model_type = "dinov2_with_registers" if config.num_register_tokens else "dinov2"
    name = "Dinov2WithRegisters" if config.num_register_tokens else "Dinov2"
    kind = f"{name}ForImageClassification" if config.num_classes else f"{name}Model"
    spelling = written_spelling(f"{model_type}." if config.num_classes else "")
    mask_token = f"{spelling.encoder}embeddings.mask_token"
    written = [
        replace(entry, foreign=(*entry.foreign, mask_token), codec=WITH_MASK_TOKEN)
        if entry.native == "cls_token"
        else entry
        for entry in _entries(config, spelling, _GATED)
    ]
    return Writing(
        weights_file="model.safetensors",
        entries=written,
        files={
            "config.json": {**write_config(model, model_type, kind), **_own_fields(config)},
            "preprocessor_config.json": write_preprocessing(model.preprocessing),
        },
        how_to_load=FROM_PRETRAINED if config.num_classes else f"transformers.{kind}.from_pretrained('{{folder}}')",
    )


def _own_fields(config: ViTConfig) -> dict[str, Any]:
    is_gated = config.activation == "swiglu"
    ratios = [r for r in range(1, _LARGEST_RATIO) if _mlp_size(config.width, r, is_gated) == config.mlp_size]
    if not ratios:
        raise WeightsError(
            f"mlp_size {config.mlp_size} of width {config.width}: transformers' DINOv2, which alone has LayerScale and"
            " registers, knows whole multiples of the width only (of gated MLPs, two thirds of them); it cannot say"
            " this model"
        )
    values: dict[str, Any] = {
        "mlp_ratio": ratios[0],
        "layerscale_value": 1.0 if config.layer_scale_init is None else config.layer_scale_init,
        "drop_path_rate": config.stochastic_depth_rate,
        "use_swiglu_ffn": is_gated,
    }
    if is_gated:
        values["hidden_act"] = "gelu"  # not used, but wanted
    if config.num_register_tokens:
        values["num_register_tokens"] = config.num_register_tokens
    return values


ADAPTER = Adapter(
    name=NAME,
    title="Hugging Face DINOv2",
    typical=(
        "embeddings.cls_token",
        "embeddings.mask_token",
        "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.{}.attention.attention.query.weight",
        "encoder.layer.{}.layer_scale1.lambda1",
    ),
    recognise=lambda checkpoint: recognise(checkpoint, NAME),
    describe=describe,
    entries=entries,
    unused=unused,
)
