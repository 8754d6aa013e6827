"""PaddleViT (BR-IDL): .pdparams of its ViT, with the tokens at the top or, as first published, in the patch embedding.

Names, epsilon 1e-6 and the exact GELU: image_classification/ViT/{vit,transformer}.py of that repository; pictures: its
model zoo, bicubic, .5/.5, crop .875 at 224 and 1.0 at 384. Paddle keeps the weight of a linear layer as (in, out).
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.evaluation_rules import HALF
from vitrail.weights.adapters.layer_entries import linear
from vitrail.weights.adapters.mapping import TRANSPOSED, Entry
from vitrail.weights.adapters.shape_rules import SHAPES, image_size_by_rows, read_labels, read_num_heads, shape_of
from vitrail.weights.checkpoint import Checkpoint

_PATCH = "patch_embedding.patch_embedding"
_LAYER = "encoder.layers.{}."
# (class token, positions) in vit.py, and in the transformer.py before it.
_TOKENS = (("cls_token", "position_embedding"), ("patch_embedding.cls_token", "patch_embedding.position_embeddings"))
# Hidden layers before the classifier, with a ReLU: training from scratch had them.
_HIDDEN = ("pre_logits.0.weight", "classifier.0.weight")


def _tokens(checkpoint: Checkpoint) -> tuple[str, str] | None:
    return next((names for names in _TOKENS if all(name in checkpoint.tensors for name in names)), None)


def recognise(checkpoint: Checkpoint) -> str | None:
    name = f"{_LAYER.format(0)}attn_norm.weight"
    if _tokens(checkpoint) is None or f"{_PATCH}.weight" not in checkpoint.tensors or name not in checkpoint.tensors:
        return None
    return f"it has '{_PATCH}.weight' and '{name}'"


def describe(checkpoint: Checkpoint) -> Description:
    for name in _HIDDEN:
        if name in checkpoint.tensors:
            raise WeightsError(
                f"{checkpoint.where}: '{name}' is of a hidden layer with a ReLU before the classifier; it is not read"
            )
    table = (_tokens(checkpoint) or _TOKENS[0])[1]
    width, in_channels, patch_size, _ = shape_of(checkpoint, f"{_PATCH}.weight", 4)
    depth = checkpoint.count(f"{_LAYER}attn.qkv.weight")
    inner_size = shape_of(checkpoint, f"{_LAYER.format(0)}attn.qkv.weight", 2)[1] // 3
    mlp_size = shape_of(checkpoint, f"{_LAYER.format(0)}mlp.fc1.weight", 2)[1]
    num_heads, heads_source = read_num_heads(checkpoint, width, depth, mlp_size)
    num_rows = shape_of(checkpoint, table, 3)[1]
    image_size, size_source = image_size_by_rows(checkpoint, table, num_rows - 1, patch_size)
    head = checkpoint.shape("classifier.weight")
    if num_heads < 1 or inner_size % num_heads:
        raise WeightsError(f"{checkpoint.where}: {num_heads} heads do not divide queries of {inner_size} numbers")
    try:
        config = ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_classes=head[-1] if head else 0,
            width=width,
            depth=depth,
            num_heads=num_heads,
            head_dim=None if inner_size == width else inner_size // num_heads,
            mlp_size=mlp_size,
            qkv_bias=f"{_LAYER.format(0)}attn.qkv.bias" in checkpoint.tensors,
        )
        is_large = image_size[0] >= 384
        preprocessing = Preprocessing(
            image_size=image_size,
            crop_fraction=1.0 if is_large else 0.875,
            interpolation="bicubic",
            mean=HALF if in_channels == 3 else (0.5,) * in_channels,
            std=HALF if in_channels == 3 else (0.5,) * in_channels,
        )
    except ConfigError as error:
        raise WeightsError(f"{checkpoint.where}: no model can be of its tensors ({error})") from error
    labels, label_source = read_labels(checkpoint, config.num_classes)
    sources = {
        "num_heads": heads_source,
        "head_dim": heads_source,
        "image_size": size_source,
        "labels": label_source,
        "qkv_bias": "the tensors that are there",
        "position_embedding": SHAPES,
    }
    return Description(config, preprocessing, labels, sources)


def _transposed(native: str, foreign: str, bias: bool = True) -> list[Entry]:
    weight = Entry(f"{native}.weight", (f"{foreign}.weight",), TRANSPOSED)
    return [weight, Entry(f"{native}.bias", (f"{foreign}.bias",))] if bias else [weight]


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    class_token, table = _tokens(checkpoint) or _TOKENS[0]
    found = [Entry("cls_token", (class_token,)), Entry("pos_embed", (table,)), *linear("patch_embed.proj", _PATCH)]
    for index in range(config.depth):
        block, layer = f"blocks.{index}.", _LAYER.format(index)
        found += [
            *linear(f"{block}norm1", f"{layer}attn_norm"),
            *_transposed(f"{block}attn.qkv", f"{layer}attn.qkv", config.qkv_bias),
            *_transposed(f"{block}attn.proj", f"{layer}attn.out"),
            *linear(f"{block}norm2", f"{layer}mlp_norm"),
            *_transposed(f"{block}mlp.fc1", f"{layer}mlp.fc1"),
            *_transposed(f"{block}mlp.fc2", f"{layer}mlp.fc2"),
        ]
    found += linear("norm", "encoder.encoder_norm")
    return found + (_transposed("head", "classifier") if config.num_classes else [])


ADAPTER = Adapter(
    name="paddlevit",
    title="PaddleViT",
    typical=(
        f"{_PATCH}.weight",
        f"{_LAYER}attn_norm.weight",
        f"{_LAYER}attn.qkv.weight",
        f"{_LAYER}attn.out.weight",
        f"{_LAYER}mlp_norm.weight",
        "encoder.encoder_norm.weight",
    ),
    recognise=recognise,
    describe=describe,
    entries=entries,
)
