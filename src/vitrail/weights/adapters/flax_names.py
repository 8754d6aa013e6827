"""Vision Transformers under the names of Google's Flax code: what google.py and big_vision.py share.

A tree of such names starts at "embedding/kernel"; where it stands ("", "opt/target/", "params/img/") is its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.flax_resnet import resnet_entries
from vitrail.weights.adapters.mapping import HWIO, SAME, TRANSPOSED, Codec, Entry

ROOT = "embedding/kernel"
MAP_HEAD = "MAPHead_0/"
# Where the first paper, big_vision today and big_vision before 2022 keep the position table.
POSITIONS_OF_PAPER = "Transformer/posembed_input/pos_embedding"
POSITIONS = (POSITIONS_OF_PAPER, "pos_embedding", "Transformer/pos_embedding")


@dataclass(frozen=True)
class BlockNames:
    """Flax numbers the parts of a block: pre-Linen across kinds, Linen each kind on its own."""

    norm1: str
    attention: str
    norm2: str
    mlp: str


PRE_LINEN = BlockNames("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
LINEN = BlockNames("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


@dataclass(frozen=True)
class Tree:
    """The names of one tree, as a checkpoint has them or as a writer gives them.

    Attributes:
        prefix: "" or one that ends with "/".
        positions: the position table, without the prefix; None: there is none.
        blocks: one for each block.
        is_scanned: the blocks are stacked along a leading axis, under the names of one.
        map_head: where the attention pooling stands, without the prefix; None: there is none.
    """

    prefix: str
    positions: str | None
    blocks: tuple[BlockNames, ...]
    is_scanned: bool = False
    map_head: str | None = None

    def block(self, index: int) -> str:
        """The prefix of a block."""
        number = "" if self.is_scanned else f"_{index}"
        return f"{self.prefix}Transformer/encoderblock{number}/"


def head_kernels(num_heads: int, head_dim: int) -> Codec:
    """Kernels (width, heads, head_dim) of query, key and value, or of some of them <-> the rows of one Linear."""

    def decode(*kernels: Tensor) -> Tensor:
        _require_heads(kernels, 3, (num_heads, head_dim))
        return torch.cat([kernel.flatten(1).t() for kernel in kernels])

    def encode(weight: Tensor) -> tuple[Tensor, ...]:
        parts = weight.split(num_heads * head_dim)
        return tuple(part.t().unflatten(1, (num_heads, head_dim)) for part in parts)

    return Codec(decode, encode)


def head_biases(num_heads: int, head_dim: int) -> Codec:
    """Biases (heads, head_dim) of query, key and value, or of some of them <-> the bias of one Linear."""

    def decode(*biases: Tensor) -> Tensor:
        _require_heads(biases, 2, (num_heads, head_dim))
        return torch.cat([bias.flatten() for bias in biases])

    def encode(bias: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.unflatten(0, (num_heads, head_dim)) for part in bias.split(num_heads * head_dim))

    return Codec(decode, encode)


def out_kernel(num_heads: int, head_dim: int) -> Codec:
    """The kernel (heads, head_dim, width) of the output projection <-> the weight of a Linear."""

    def decode(kernel: Tensor) -> Tensor:
        if kernel.ndim != 3 or kernel.shape[:2] != (num_heads, head_dim):
            raise ValueError(f"its first axes are not {num_heads} heads of {head_dim}")
        return kernel.flatten(0, 1).t()

    return Codec(decode, lambda weight: (weight.t().unflatten(0, (num_heads, head_dim)),))


def _require_heads(tensors: tuple[Tensor, ...], num_axes: int, heads: tuple[int, int]) -> None:
    # A kernel of other heads has as many numbers and would be read without a word.
    for tensor in tensors:
        if tensor.ndim != num_axes or tensor.shape[-2:] != heads:
            raise ValueError(f"the last axes are not {heads[0]} heads of {heads[1]}")


def of_scanned(codec: Codec, index: int, depth: int) -> Codec:
    """One block's share of tensors that hold all of them, (depth, ...) each."""

    def decode(*stacks: Tensor) -> Tensor:
        if any(stack.ndim == 0 or stack.shape[0] != depth for stack in stacks):
            raise ValueError(f"the first axis is not the {depth} blocks")
        return codec.decode(*(stack[index] for stack in stacks))

    def encode(tensor: Tensor) -> tuple[Tensor, ...]:
        raise ValueError("scanned blocks are read only: one block alone does not make the tensor of all")

    return Codec(decode, encode)


def tree_entries(config: ViTConfig, tree: Tree) -> list[Entry]:
    """How every tensor of a model of `config` is named in a tree.

    A position table or an attention pooling that `config` needs and the tree has not is looked for where it should be,
    so that it is named as missing.
    """
    prefix = tree.prefix
    entries = [
        Entry("patch_embed.proj.weight", (f"{prefix}{ROOT}",), HWIO),
        Entry("patch_embed.proj.bias", (f"{prefix}embedding/bias",)),
    ]
    if config.stem == "resnet":
        entries += resnet_entries(config, prefix)
    if config.class_token:
        entries.append(Entry("cls_token", (f"{prefix}cls",)))
    if config.position_embedding == "learned_1d":
        entries.append(Entry("pos_embed", (f"{prefix}{tree.positions or POSITIONS_OF_PAPER}",)))
    for index in range(config.depth):
        names = tree.blocks[index] if index < len(tree.blocks) else LINEN
        for entry in _block_entries(config, f"blocks.{index}.", tree.block(index), names):
            codec = of_scanned(entry.codec, index, config.depth) if tree.is_scanned else entry.codec
            entries.append(Entry(entry.native, entry.foreign, codec))
    entries += _norm("norm", f"{prefix}Transformer/encoder_norm")
    if config.pooling == "map":
        head = MAP_HEAD if tree.map_head is None else tree.map_head
        entries += _map_head_entries(config, f"{prefix}{head}")
    if config.pre_logits_size is not None:
        entries += _dense("pre_logits.fc", f"{prefix}pre_logits")
    if config.num_classes:
        entries += _dense("head", f"{prefix}head")
    return entries


def _block_entries(config: ViTConfig, native: str, prefix: str, names: BlockNames) -> Iterator[Entry]:
    heads = config.num_heads, config.attention_head_dim
    attention = f"{prefix}{names.attention}/"
    yield from _norm(f"{native}norm1", f"{prefix}{names.norm1}")
    yield from _projection(f"{native}attn.qkv", attention, ("query", "key", "value"), heads)
    yield from _out(f"{native}attn.proj", attention, heads)
    yield from _norm(f"{native}norm2", f"{prefix}{names.norm2}")
    yield from _mlp(f"{native}mlp", f"{prefix}{names.mlp}")


def _map_head_entries(config: ViTConfig, prefix: str) -> Iterator[Entry]:
    heads = config.num_heads, config.attention_head_dim
    attention = f"{prefix}{LINEN.attention}/"
    yield Entry("attn_pool.latent", (f"{prefix}probe",))
    yield from _projection("attn_pool.q", attention, ("query",), heads)
    yield from _projection("attn_pool.kv", attention, ("key", "value"), heads)
    yield from _out("attn_pool.proj", attention, heads)
    yield from _norm("attn_pool.norm", f"{prefix}LayerNorm_0")
    yield from _mlp("attn_pool.mlp", f"{prefix}{LINEN.mlp}")


def _projection(native: str, prefix: str, parts: tuple[str, ...], heads: tuple[int, int]) -> Iterator[Entry]:
    yield Entry(f"{native}.weight", tuple(f"{prefix}{part}/kernel" for part in parts), head_kernels(*heads))
    yield Entry(f"{native}.bias", tuple(f"{prefix}{part}/bias" for part in parts), head_biases(*heads))


def _out(native: str, prefix: str, heads: tuple[int, int]) -> Iterator[Entry]:
    yield Entry(f"{native}.weight", (f"{prefix}out/kernel",), out_kernel(*heads))
    yield Entry(f"{native}.bias", (f"{prefix}out/bias",))


def _mlp(native: str, prefix: str) -> Iterator[Entry]:
    for number in (1, 2):
        yield from _dense(f"{native}.fc{number}", f"{prefix}/Dense_{number - 1}")


def _dense(native: str, prefix: str) -> Iterator[Entry]:
    yield Entry(f"{native}.weight", (f"{prefix}/kernel",), TRANSPOSED)
    yield Entry(f"{native}.bias", (f"{prefix}/bias",), SAME)


def _norm(native: str, prefix: str) -> Iterator[Entry]:
    yield Entry(f"{native}.weight", (f"{prefix}/scale",))
    yield Entry(f"{native}.bias", (f"{prefix}/bias",))
