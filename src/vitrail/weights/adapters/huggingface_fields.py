"""config.json of Hugging Face transformers: what it says of architecture and labels, checked against the tensors."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitrail.errors import ConfigError, WeightsError, did_you_mean
from vitrail.models.config import Activation, ViTConfig
from vitrail.weights.adapters import shape_rules
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.shape_rules import CALLER, SHAPES, read_num_heads
from vitrail.weights.checkpoint import Checkpoint

CONFIG = "config.json"
# model_type -> adapter.
MODEL_TYPES = {
    "vit": "huggingface_vit",
    "vit_mae": "huggingface_vit",
    "vit_msn": "huggingface_vit",
    "deit": "huggingface_deit",
    "dinov2": "huggingface_dinov2",
    "dinov2_with_registers": "huggingface_dinov2",
}
# hidden_act -> activation. Those of one value differ in how they are computed, not in what.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
HIDDEN_ACTS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
FROM_PRETRAINED = "transformers.AutoModelForImageClassification.from_pretrained('{folder}')"
# Fields that are used, and what they must be.
_WHOLE, _NUMBER, _SIDES = "a whole number", "a number", "a number or [height, width]"
_KINDS = {
    "num_attention_heads": _WHOLE,
    "layer_norm_eps": _NUMBER,
    "hidden_dropout_prob": _NUMBER,
    "attention_probs_dropout_prob": _NUMBER,
    "layerscale_value": _NUMBER,
    "drop_path_rate": _NUMBER,
    "mlp_ratio": _NUMBER,
    "image_size": _SIDES,
    "patch_size": _SIDES,
}
_PATCHES = "embeddings.patch_embeddings.projection.weight"


@dataclass(frozen=True)
class Said:
    """What config.json says, and what transformers takes where it says nothing."""

    where: str
    values: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        value = self.values.get(name)
        return self.defaults[name] if value is None else value

    def source(self, name: str) -> str:
        if self.values.get(name) is not None:
            return CONFIG
        return f"transformers' default, {'which config.json leaves' if self.values else 'no config.json being there'}"

    def agree(self, name: str, found: object) -> None:
        """Raises WeightsError where config.json says another value than the tensors have."""
        value = self.values.get(name)
        if value is not None and value != found:
            raise contradiction(self.where, f"{name} {value}", str(found))


def contradiction(where: str, said: str, found: str) -> WeightsError:
    return WeightsError(
        f"{where}: {CONFIG} says {said}, the tensors have {found}; the two do not belong to one model."
        f" Put the {CONFIG} there that was published with these weights"
    )


def recognise(checkpoint: Checkpoint, adapter: str) -> str | None:
    """Why a checkpoint is `adapter`'s: by model_type, else by keys. "huggingface_vit" also takes, and then refuses,
    models of transformers that nobody here reads, so that they are refused by their name."""
    if checkpoint.container not in ("safetensors", "torch"):
        return None
    model_type = checkpoint.files.get(CONFIG, {}).get("model_type")
    patches = next((name for name in checkpoint.tensors if name.endswith(_PATCHES)), None)
    if isinstance(model_type, str):
        is_named_so = any("embeddings.patch_embedding" in name for name in checkpoint.tensors)
        if is_named_so and MODEL_TYPES.get(model_type, "huggingface_vit") == adapter:
            return f"{CONFIG} says model_type '{model_type}'"
        return None
    return f"it has '{patches}'" if patches is not None and _by_keys(checkpoint) == adapter else None


def _by_keys(checkpoint: Checkpoint) -> str | None:
    marks = {
        "embeddings.distillation_token": "huggingface_deit",
        ".layer_scale1.lambda1": "huggingface_dinov2",
        ".0.layernorm_before.weight": "huggingface_vit",
    }
    for mark, adapter in marks.items():
        if any(name.endswith(mark) for name in checkpoint.tensors):
            return adapter
    return None


def read_config(checkpoint: Checkpoint, defaults: Mapping[str, Mapping[str, Any]], fallback: str) -> Said:
    """config.json of one of the model types of `defaults`; of `fallback` where there is none.

    Raises:
        WeightsError: a model type that is not read.
    """
    values = checkpoint.files.get(CONFIG, {})
    model_type = values.get("model_type", fallback)
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise WeightsError(
            f"{checkpoint.where}: {CONFIG} says model_type '{model_type}', which vitrail does not read."
            f"{did_you_mean(str(model_type), MODEL_TYPES)} Of transformers it reads {', '.join(MODEL_TYPES)}"
        )
    for name, kind in _KINDS.items():
        if values.get(name) is not None and not _is(values[name], kind):
            raise WeightsError(f"{checkpoint.where}: {CONFIG} says {name} {values[name]!r}, which is not {kind}")
    return Said(checkpoint.where, values, defaults.get(model_type, defaults[fallback]))


def _is(value: Any, kind: str) -> bool:
    if kind == _SIDES and isinstance(value, list | tuple):
        return len(value) == 2 and all(_is(side, _WHOLE) for side in value)
    if not isinstance(value, int | float if kind == _NUMBER else int) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # JSON knows whole numbers without an end, and NaN


@dataclass(frozen=True)
class Shapes:
    """What the tensors of a checkpoint tell."""

    width: int
    depth: int
    mlp_size: int
    patch_size: int
    in_channels: int
    attention_width: int  # num_heads * head_dim
    qkv_bias: bool
    position_rows: int


def architecture(
    checkpoint: Checkpoint, said: Said, shapes: Shapes, *, prefix_rows: int, heads_of_64: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of ViTConfig that all families have, and where each was taken from.

    Args:
        prefix_rows: rows of the position table that are no patches'.
        heads_of_64: every published model of the family has heads of 64 features.
    Raises:
        WeightsError: config.json contradicts the tensors, or something cannot be told or computed.
    """
    for name, found in (
        ("hidden_size", shapes.width),
        ("num_hidden_layers", shapes.depth),
        ("num_channels", shapes.in_channels),
        ("qkv_bias", shapes.qkv_bias),
    ):
        said.agree(name, found)
    patch = said.values.get("patch_size")
    if patch is not None and _pair(patch) != (shapes.patch_size, shapes.patch_size):
        raise contradiction(said.where, f"patch_size {patch}", f"{shapes.patch_size}x{shapes.patch_size}")
    stated = (int(said["num_attention_heads"]), said.source("num_attention_heads")) if said.values else None
    num_heads, heads_source = read_num_heads(
        checkpoint, shapes.attention_width, shapes.depth, shapes.mlp_size, stated, heads_of_64=heads_of_64
    )
    if num_heads < 1 or shapes.attention_width % num_heads:
        raise WeightsError(
            f"{said.where}: {num_heads} heads ({heads_source}) do not divide the {shapes.attention_width} features of"
            " the queries; give the right --num-heads"
        )
    head_dim = shapes.attention_width // num_heads
    said.agree("head_dim", head_dim)
    image_size, image_source = _image_size(checkpoint, said, shapes, prefix_rows)
    fields = {
        "image_size": image_size,
        "patch_size": shapes.patch_size,
        "in_channels": shapes.in_channels,
        "width": shapes.width,
        "depth": shapes.depth,
        "num_heads": num_heads,
        "head_dim": None if shapes.attention_width == shapes.width else head_dim,
        "mlp_size": shapes.mlp_size,
        "activation": _activation(said),
        "qkv_bias": shapes.qkv_bias,
        "layer_norm_eps": float(said["layer_norm_eps"]),
        "dropout_rate": float(said["hidden_dropout_prob"]),
        "attention_dropout_rate": float(said["attention_probs_dropout_prob"]),
    }
    sources = {
        "activation": said.source("hidden_act"),
        "layer_norm_eps": said.source("layer_norm_eps"),
        "num_heads": heads_source,
        "head_dim": heads_source,
        "image_size": image_source,
        "qkv_bias": SHAPES,
        "position_embedding": SHAPES,
    }
    return fields, sources


def build_config(where: str, fields: Mapping[str, Any]) -> ViTConfig:
    """Raises WeightsError for fields that contradict each other."""
    try:
        return ViTConfig(**fields)
    except ConfigError as error:
        raise WeightsError(f"{where}: no model can be of its {CONFIG} and tensors ({error})") from error


def _activation(said: Said) -> Activation:
    act = said["hidden_act"]
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise WeightsError(
            f"{said.where}: {CONFIG} says hidden_act {act!r}, which vitrail cannot compute; it knows"
            f" {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[act]


def _image_size(checkpoint: Checkpoint, said: Said, shapes: Shapes, prefix_rows: int) -> tuple[tuple[int, int], str]:
    num_patches, patch = shapes.position_rows - prefix_rows, shapes.patch_size
    if checkpoint.choices.image_size is not None:
        size, source = checkpoint.choices.image_size, CALLER
    elif said.values.get("image_size") is not None:
        size, source = _pair(said.values["image_size"]), CONFIG
    else:
        side = math.isqrt(max(0, num_patches))
        if side < 1 or side * side != num_patches:
            raise WeightsError(
                f"{said.where}: the position table has {shapes.position_rows} rows, {prefix_rows} of them no patch's,"
                " and the rest is no square; give --image-size HEIGHT WIDTH"
            )
        return (side * patch, side * patch), SHAPES
    rows = prefix_rows + (size[0] // patch) * (size[1] // patch)
    if rows != shapes.position_rows:
        wanted = f"image_size {size[0]}x{size[1]}, so {rows} positions of patches of {patch} pixels"
        if source == CALLER:
            raise WeightsError(f"{said.where}: {wanted}, but the position table has {shapes.position_rows} rows")
        raise contradiction(said.where, wanted, f"{shapes.position_rows}")
    return size, source


def _pair(value: Any) -> tuple[int, int]:
    """One number for both, or (height, width)."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    return int(value), int(value)


def read_labels(checkpoint: Checkpoint, num_classes: int) -> tuple[tuple[str, ...], str]:
    """Labels in the order of the logits, and where they were taken from.

    Raises:
        WeightsError: more or fewer than the head has, indices with a gap, or label2id in another order than id2label.
    """
    where, values = checkpoint.where, checkpoint.files.get(CONFIG, {})
    names = values.get("id2label")
    says_nothing = not num_classes or not names or (isinstance(names, Mapping) and _are_placeholders(names))
    if checkpoint.choices.labels is not None or says_nothing:
        return shape_rules.read_labels(checkpoint, num_classes)
    if not isinstance(names, Mapping) or not isinstance(values.get("label2id") or {}, Mapping):
        raise WeightsError(f"{where}: id2label and label2id in {CONFIG} must be objects; mend them, or give --labels")
    by_index = {str(index): str(label) for index, label in names.items()}
    if set(by_index) != {str(index) for index in range(num_classes)}:
        stranger = next((i for i in by_index if i not in {str(index) for index in range(num_classes)}), None)
        what = f"index {stranger!r}" if stranger is not None else f"only {len(by_index)} of them"
        raise WeightsError(
            f"{where}: id2label in {CONFIG} must name the classes 0 to {num_classes - 1} of the head, each once,"
            f" and has {what}; labels in another order than the head would answer wrongly. Mend it, or give --labels"
        )
    labels = tuple(by_index[str(index)] for index in range(num_classes))
    _require_same_order(where, labels, values.get("label2id"))
    return shape_rules.read_labels(checkpoint, num_classes, labels, CONFIG)


def _are_placeholders(names: Mapping[str, Any]) -> bool:
    """LABEL_0, LABEL_1, ...: what transformers writes for a head without names."""
    return all(str(label) == f"LABEL_{index}" for index, label in names.items())


def _require_same_order(where: str, labels: tuple[str, ...], label2id: Any) -> None:
    if not label2id or all(re.fullmatch(r"LABEL_\d+", str(label)) for label in label2id):
        return
    for label, index in label2id.items():
        # Of labels that occur twice ("crane"), label2id can name one place only.
        if not str(index).isdigit() or int(index) >= len(labels) or labels[int(index)] != label:
            other = labels.index(label) if label in labels else None
            place = f"at {other}" if other is not None else "nowhere"
            raise WeightsError(
                f"{where}: {CONFIG} contradicts itself: label2id has {label!r} at {index}, id2label has it {place};"
                " nothing tells which order the head has. Mend it, or give --labels"
            )


def write_config(model: Model[ViTConfig], model_type: str, architecture: str) -> dict[str, Any]:
    """What config.json of every family says alike."""
    config = model.config
    height, width = config.image_size
    values: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_dropout_prob": config.dropout_rate,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": height if height == width else [height, width],
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "qkv_bias": config.qkv_bias,
        "initializer_range": 0.02,
    }
    if config.activation in HIDDEN_ACTS:
        values["hidden_act"] = HIDDEN_ACTS[config.activation]
    if config.num_classes:
        values["id2label"] = {str(index): label for index, label in enumerate(model.labels)}
        values["label2id"] = {label: index for index, label in enumerate(model.labels)}
    return values
