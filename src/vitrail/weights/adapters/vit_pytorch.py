"""vit-pytorch (lucidrains): ViT of every release since 0.3, and SimpleViT.

Nobody publishes weights in this layout; people have their own, so what shapes cannot tell is said in the notes and can
be chosen. LayerNorm epsilon 1e-5 (torch's own), exact GELU, no bias on queries, keys and values, heads of 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import Pooling, ViTConfig
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.layer_entries import linear
from vitrail.weights.adapters.mapping import SAME, Codec, Entry
from vitrail.weights.adapters.shape_rules import CALLER, SHAPES, image_size_by_rows, read_labels, shape_of
from vitrail.weights.adapters.vit_pytorch_names import Names, find_names, find_prefix, why_unused
from vitrail.weights.checkpoint import Checkpoint

_HEAD_DIM = 64
_GUESS = "a guess: nobody published how pictures are prepared for this layout"
_TOKEN_NOTE = (
    "pooled by the class token, as vit-pytorch does unless told otherwise: its names cannot tell this from the mean of"
    " all tokens (pool='mean'); if it was that, choose --pooling mean"
)


def recognise(checkpoint: Checkpoint) -> str | None:
    prefix = find_prefix(checkpoint)
    if prefix is None:
        return None
    names = (f"{prefix}{name}.weight" for name in ("to_patch_embedding.1", "patch_to_embedding"))
    return f"it has '{next(name for name in names if name in checkpoint.tensors)}' and '{prefix}transformer.'"


def describe(checkpoint: Checkpoint) -> Description:
    names = find_names(checkpoint)
    width, patch_values = shape_of(checkpoint, f"{names.projection}.weight", 2)
    in_channels, patch_size = _patch(checkpoint, names, patch_values)
    num_heads, head_dim, heads_source = _heads(checkpoint, names)
    num_class_tokens = _num_class_tokens(checkpoint, names, width)
    image_size, size_source = _image_size(checkpoint, names, patch_size, num_class_tokens)
    pooling, pool_prefix, pool_source, notes = _pooling(checkpoint, names, num_class_tokens)
    head = checkpoint.shape(f"{names.head}.weight") if names.head else None
    notes += _query_scale(checkpoint, names)[1]
    if heads_source != CALLER and names.output is not None:
        notes.append(f"{num_heads} heads of {head_dim}: shapes cannot tell, 64 is vit-pytorch's own; else --num-heads")
    if names.output is None:
        notes.append("one head of the whole width: its output is not projected, which the identity says here")
    try:
        config = ViTConfig(
            image_size=image_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_classes=head[0] if head else 0,
            width=width,
            depth=checkpoint.count(f"{names.prefix}transformer.layers.{{}}.{names.block.attention}to_qkv.weight"),
            num_heads=num_heads,
            head_dim=None if num_heads * head_dim == width else head_dim,
            mlp_size=shape_of(checkpoint, f"{names.layer(0)}{names.block.fc1}.weight", 2)[0],
            pooling=pooling,
            pool_prefix=pool_prefix,
            class_token=num_class_tokens == 1,
            position_embedding="sincos_2d_big_vision" if names.simple else "learned_1d",
            position_for_prefix=not names.simple,
            qkv_bias=f"{names.layer(0)}{names.block.attention}to_qkv.bias" in checkpoint.tensors,
            layer_norm_eps=1e-5,
            patch_norm=names.patch_norms is not None,
        )
        half = (0.5,) * in_channels
        preprocessing = Preprocessing(image_size=image_size, resize="squash", mean=half, std=half)
    except ConfigError as error:
        raise WeightsError(f"{checkpoint.where}: no model can be of its tensors ({error})") from error
    labels, label_source = read_labels(checkpoint, config.num_classes)
    sources = {
        "num_heads": heads_source,
        "head_dim": heads_source,
        "image_size": size_source,
        "pooling": pool_source,
        "pool_prefix": pool_source,
        "class_token": SHAPES,
        "position_embedding": "the tensors that are there",
        "qkv_bias": "the tensors that are there",
        "labels": label_source,
        **dict.fromkeys(("mean", "std", "interpolation", "resize", "crop_fraction"), _GUESS),
    }
    return Description(config, preprocessing, labels, sources, notes=tuple(notes))


def _patch(checkpoint: Checkpoint, names: Names, num_values: int) -> tuple[int, int]:
    """(channels, patch size): 3 times a square and a square are never the same number."""
    for in_channels in (3, 1):
        patch_size = math.isqrt(num_values // in_channels)
        if in_channels * patch_size**2 == num_values:
            return in_channels, patch_size
    raise WeightsError(
        f"{checkpoint.where}: '{names.projection}.weight' takes patches of {num_values} numbers, which are no square of"
        " pixels in 1 or 3 channels; only those are read"
    )


def _heads(checkpoint: Checkpoint, names: Names) -> tuple[int, int, str]:
    """(number of heads, their width, where it is from)."""
    name = f"{names.layer(0)}{names.block.attention}to_qkv.weight"
    inner_size, chosen = shape_of(checkpoint, name, 2)[0] // 3, checkpoint.choices.num_heads
    if chosen is not None:
        if chosen < 1 or inner_size % chosen:
            raise WeightsError(f"{checkpoint.where}: {chosen} heads do not divide queries of {inner_size} numbers")
        return chosen, inner_size // chosen, CALLER
    if names.output is None:
        return 1, inner_size, "no projection of the heads, which only one head goes without"
    if inner_size % _HEAD_DIM:
        raise WeightsError(
            f"{checkpoint.where}: queries of {inner_size} numbers are no heads of {_HEAD_DIM}, vit-pytorch's own width,"
            " and nothing else tells how many heads there are; give --num-heads"
        )
    return inner_size // _HEAD_DIM, _HEAD_DIM, f"vit-pytorch's own width of a head, {_HEAD_DIM}"


def _num_class_tokens(checkpoint: Checkpoint, names: Names, width: int) -> int:
    token = checkpoint.tensors.get(f"{names.prefix}cls_token")
    if names.simple or token is None:
        return 0
    count = token.numel() // width
    if count > 1 or token.numel() % width:
        raise WeightsError(f"{checkpoint.where}: '{names.prefix}cls_token' is {tuple(token.shape)}; one row is read")
    return count


def _image_size(
    checkpoint: Checkpoint, names: Names, patch_size: int, num_class_tokens: int
) -> tuple[tuple[int, int], str]:
    if names.simple:
        chosen = checkpoint.choices.image_size
        if chosen is None:
            raise WeightsError(
                f"{checkpoint.where}: SimpleViT computes its positions, so its weights do not tell the size of its"
                " pictures; give --image-size HEIGHT WIDTH"
            )
        return chosen, CALLER
    table = f"{names.prefix}pos_embedding"
    shape = checkpoint.shape(table)
    if shape is None or len(shape) not in (2, 3):
        raise WeightsError(f"{checkpoint.where}: '{table}' is {shape or 'missing'}; it must have 2 or 3 dimensions")
    return image_size_by_rows(checkpoint, table, shape[-2] - num_class_tokens, patch_size)


def _pooling(checkpoint: Checkpoint, names: Names, num_class_tokens: int) -> tuple[Pooling, bool, str, list[str]]:
    """(pooling, whether the class token is in the mean, where it is from, notes)."""
    mean: Pooling = "avg" if names.norm_in_head else "gap"
    chosen = checkpoint.choices.pooling
    if num_class_tokens == 0:
        if chosen == "token":
            raise WeightsError(f"{checkpoint.where}: it has no class token to pool by; leave the pooling out")
        return mean, False, "no class token is there", []
    if chosen is not None:
        return ("token" if chosen == "token" else mean), chosen == "mean", CALLER, []
    # Since a class token is a row of a matrix, models that pool by the mean have none.
    is_sure = len(checkpoint.shape(f"{names.prefix}cls_token") or ()) == 2
    return "token", False, SHAPES if is_sure else "vit-pytorch's own", [] if is_sure else [_TOKEN_NOTE]


def _query_scale(checkpoint: Checkpoint, names: Names) -> tuple[str, list[str]]:
    """("head" or "width", what to tell): up to 0.6.5, vit-pytorch scaled queries by dim ** -0.5."""
    chosen = checkpoint.choices.query_scale
    scale = chosen or ("width" if names.old_patches else "head")
    if scale == "head" and chosen is None:
        return scale, []
    why = CALLER if chosen else "'patch_to_embedding' is of a release before 0.7, and they did so up to 0.6.5"
    by = "the width of the tokens (dim ** -0.5)" if scale == "width" else "that of a head (dim_head ** -0.5)"
    done = "; this is now in the rows of the queries" if scale == "width" else ""
    other = "" if chosen else "; if a later release wrote it, choose --query-scale head"
    return scale, [f"queries are scaled by {by}, says {why}{done}{other}"]


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    names = find_names(checkpoint)
    prefix, width = names.prefix, config.width
    rows = Codec(lambda table, *empty: table.reshape(1, -1, width), lambda table: (table,))
    found = []
    if config.class_token:
        found.append(Entry("cls_token", (f"{prefix}cls_token",), rows))
    if not names.simple:
        tables = [f"{prefix}pos_embedding"]
        if not config.class_token and f"{prefix}cls_token" in checkpoint.tensors:
            tables.append(f"{prefix}cls_token")  # it has no row
        found.append(Entry("pos_embed", tuple(tables), rows))
    found.append(Entry("patch_embed.proj.weight", (f"{names.projection}.weight",), _pixels(config)))
    found.append(Entry("patch_embed.proj.bias", (f"{names.projection}.bias",)))
    if names.patch_norms is not None:
        found += linear("patch_embed.patch_norm", names.patch_norms[0])
        found += linear("patch_embed.norm", names.patch_norms[1])
    is_by_width = _query_scale(checkpoint, names)[0] == "width"
    queries = _scaled(math.sqrt(config.attention_head_dim / width)) if is_by_width else SAME
    for index in range(config.depth):
        found += _block_entries(config, checkpoint, names, index, queries)
    if names.norm is not None:
        found += linear("fc_norm" if config.pooling == "avg" else "norm", names.norm)
    else:
        found += linear("norm", f"{prefix}transformer.norm")  # told to be missing
    return found + (linear("head", names.head) if names.head is not None else [])


def _block_entries(config: ViTConfig, checkpoint: Checkpoint, names: Names, index: int, queries: Codec) -> list[Entry]:
    block, layer = f"blocks.{index}.", names.layer(index)
    attention = f"{layer}{names.block.attention}"
    found = [
        *linear(f"{block}norm1", f"{layer}{names.block.norm1}"),
        Entry(f"{block}attn.qkv.weight", (f"{attention}to_qkv.weight",), queries),
    ]
    if config.qkv_bias:
        found.append(Entry(f"{block}attn.qkv.bias", (f"{attention}to_qkv.bias",), queries))
    bias: tuple[str, ...] = ()
    if names.output is None:
        found.append(Entry(f"{block}attn.proj.weight", (), _made(torch.eye(config.width))))
    else:
        found.append(Entry(f"{block}attn.proj.weight", (f"{attention}{names.output}.weight",)))
        bias = (f"{attention}{names.output}.bias",)
    # SimpleViT's output has no bias.
    is_there = bool(bias) and (bias[0] in checkpoint.tensors or not names.simple)
    found.append(
        Entry(f"{block}attn.proj.bias", bias)
        if is_there
        else Entry(f"{block}attn.proj.bias", (), _made(torch.zeros(config.width)))
    )
    return [
        *found,
        *linear(f"{block}norm2", f"{layer}{names.block.norm2}"),
        *linear(f"{block}mlp.fc1", f"{layer}{names.block.fc1}"),
        *linear(f"{block}mlp.fc2", f"{layer}{names.fc2}"),
    ]


def _pixels(config: ViTConfig) -> Codec:
    """(width, row * column * channel) -> (width, channel, row, column)."""
    side, channels = config.patch_size, config.in_channels
    return Codec(
        lambda weight: weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2),
        lambda weight: (weight.permute(0, 2, 3, 1).flatten(1),),
    )


def _scaled(factor: float) -> Codec:
    """Multiplies the first third of the rows, the queries; in float64, so that one rounding is all."""

    def decode(weight: Tensor) -> Tensor:
        weight = weight.float() if weight.element_size() < 4 else weight
        query, rest = weight.tensor_split([weight.shape[0] // 3])
        return torch.cat([(query.double() * factor).to(query.dtype), rest])

    def encode(weight: Tensor) -> tuple[Tensor, ...]:
        query, rest = weight.tensor_split([weight.shape[0] // 3])
        return (torch.cat([(query.double() / factor).to(query.dtype), rest]),)

    return Codec(decode, encode)


def _made(tensor: Tensor) -> Codec:
    """What no file says because it is always the same."""
    return Codec(tensor.clone, lambda _: ())


ADAPTER = Adapter(
    name="vit_pytorch",
    title="vit-pytorch",
    typical=(
        "pos_embedding",
        "to_patch_embedding.1.weight",
        "transformer.layers.{}.0.to_qkv.weight",
        "transformer.layers.{}.0.to_out.0.weight",
        "transformer.layers.{}.1.net.1.weight",
        "transformer.norm.weight",
    ),
    recognise=recognise,
    describe=describe,
    entries=entries,
    unused=why_unused,
)
