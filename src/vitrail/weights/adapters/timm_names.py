"""Checkpoints under timm's names, which are the native ones: where their state dict stands and what its shapes tell.

timm, DINO, DINOv2, MAE, DeiT and MoCo v3 share these names; their adapters add what is each family's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.layers.position_embed import sincos_2d
from vitrail.models.config import ViTConfig
from vitrail.weights.adapters.mapping import SAME, Codec, Entry, native_shapes, tensors_are
from vitrail.weights.checkpoint import Checkpoint

CONFIG = "config.json"
KERNEL = "patch_embed.proj.weight"
TYPICAL = (
    "cls_token",
    "pos_embed",
    KERNEL,
    "blocks.{}.norm1.weight",
    "blocks.{}.attn.qkv.weight",
    "blocks.{}.attn.proj.weight",
    "blocks.{}.norm2.weight",
    "blocks.{}.mlp.fc1.weight",
    "blocks.{}.mlp.fc2.weight",
    "norm.weight",
)
# The tensor that a fixed position table is kept beside, which every model has.
CARRIER = KERNEL
_SHOWN = 5
# Beginnings of names that mean something vitrail's model does not compute, though the rest looks familiar.
_REFUSED = {
    r"blocks\.\d+\.attn\.[qk]_norm\.": "queries and keys are normalised (qk_norm)",
    r"blocks\.\d+\.attn\.norm\.": "the heads' outputs are normalised (scale_attn_norm)",
    r"blocks\.\d+\.mlp\.norm\.": "the MLP's hidden layer is normalised (scale_mlp_norm)",
    r"blocks\.\d+\.attn\.([qv]_bias|relative_position)": "BEiT's attention, with relative positions or no key bias",
    r"blocks\.\d+\.attn\.(q_proj|k_proj|v_proj|inner_attn_ln)": "EVA's attention",
    r"blocks\.\d+\.attn\.(rel_pos|rope|lambda_)": "attention with relative, rotary or differential terms",
    r"blocks\.\d+\.mlp\.(w1|w2|fc1_g|fc1_x)\.": "an MLP gated by two separate layers",
    r"blocks\.\d+\.(attns|ffns|in_proj|in_norm|attn1|mlp1)\b": "blocks whose branches run side by side",
    r"blocks\.\d+\.gamma_\d_1": "blocks whose branches run side by side",
    r"(rope|rel_pos|shared_rel_pos)": "rotary or relative positions",
    r"patch_embed\.backbone\.(?!(stem\.)?(conv|norm)\.|stages\.\d+\.blocks\.\d+\.(conv|norm|downsample))": (
        "a convolutional network before the blocks that is not the hybrids' ResNet"
    ),
    r"patch_embed\.backbone\..*(running_mean|num_batches_tracked)": "a hybrid with batch norms",
    r"patch_embed\.proj\.\d+\.": "a convolutional stem with its own norms",
    r"patch_embed\.norm\.": "a norm of the patch embedding",
    r"layers\.\d+\.blocks\.": "stages of windowed attention, as Swin has",
    r"head\.\d+\.": "a head of several layers",
}
_TRAINING = re.compile(
    r"(^|/)(optimizer|lr_scheduler|scheduler|amp_scaler|scaler|loss_scaler|fp16_scaler|dino_loss|ibot_patch_loss)\w*[/.]"
)


@dataclass(frozen=True)
class Tree:
    """One state dict of a checkpoint: timm's name of a tensor -> its name in the file.

    Attributes:
        prefix: what stands before each of its names in the file ("model/", "teacher/backbone.", "").
        notes: sentences on why this one was taken of several.
    """

    checkpoint: Checkpoint
    prefix: str
    names: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of the tensor of this timm name; None where there is none."""
        return self.checkpoint.shape(self.names[name]) if name in self.names else None

    def tensor(self, name: str) -> Tensor:
        return self.checkpoint.tensors[self.names[name]]

    def has(self, pattern: str) -> bool:
        """Whether a name starts as the pattern says."""
        return any(re.match(pattern, name) for name in self.names)

    @property
    def where(self) -> str:
        return self.checkpoint.where


def is_hub_config(checkpoint: Checkpoint) -> bool:
    """Whether a timm config.json lies beside the weights: then it says what they are, whoever trained them."""
    return "architecture" in checkpoint.files.get(CONFIG, {})


def same_name(name: str) -> str | None:
    return name


def tree_prefixes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What stands before the names of each state dict in the checkpoint."""
    return tuple(name.removesuffix(KERNEL) for name in checkpoint.tensors if name.endswith(KERNEL))


def find_tree(
    checkpoint: Checkpoint, order: Sequence[str] = (), rename: Callable[[str], str | None] = same_name
) -> Tree:
    """The state dict to read.

    Args:
        order: beginnings of prefixes, likelier first; `checkpoint.choices.prefix` wins.
        rename: name in the file, without the prefix -> timm's name; None: of no concern to the model.
    Raises:
        WeightsError: none there, or none that starts as the caller says.
    """
    prefixes = tree_prefixes(checkpoint)
    wanted = checkpoint.choices.prefix
    fitting = [prefix for prefix in prefixes if wanted is None or prefix.startswith(wanted)]
    if not fitting:
        listed = ", ".join(f"'{prefix}'" for prefix in prefixes) or "none"
        asked = f" that starts with --prefix '{wanted}'" if prefixes else ""
        refuse_foreign(checkpoint.where, list(checkpoint.tensors))
        raise WeightsError(f"{checkpoint.where}: no '{KERNEL}'{asked}; there is {listed}")
    ranks = {prefix: _rank(prefix, order) for prefix in fitting}
    prefix = min(fitting, key=lambda candidate: ranks[candidate])
    notes: tuple[str, ...] = ()
    if len(prefixes) > 1:
        others = ", ".join(f"'{other}'" for other in prefixes if other != prefix)
        notes = (f"of several sets of weights '{prefix}' was taken; --prefix takes another: {others}",)
    longer = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    names = {}
    for name in checkpoint.tensors:
        if name.startswith(prefix) and not name.startswith(longer):
            timm_name = rename(name.removeprefix(prefix))
            if timm_name is not None:
                names[timm_name] = name
    refuse_foreign(checkpoint.where, list(names))
    return Tree(checkpoint, prefix, names, notes)


def _rank(prefix: str, order: Sequence[str]) -> int:
    return next((rank for rank, start in enumerate(order) if prefix.startswith(start)), len(order))


def refuse_foreign(where: str, names: Sequence[str]) -> None:
    """Raises WeightsError for a name that means something else than vitrail's model computes."""
    for name in names:
        for pattern, meaning in _REFUSED.items():
            if re.match(pattern, name):
                raise WeightsError(
                    f"{where}: '{name}' means {meaning}, which vitrail's Vision Transformer does not compute"
                )


def tree_entries(tree: Tree, config: ViTConfig, explained: Callable[[str], str | None]) -> list[Entry]:
    """How native tensors are made of the tree's.

    Args:
        explained: file's name of a tensor -> why it is no loss; None: it is one.
    Raises:
        WeightsError: tensors that neither the model, nor `explained`, nor another state dict of the file accounts for.
    """
    entries = [Entry(name, (tree.names.get(name, f"{tree.prefix}{name}"),)) for name in native_shapes(config)]
    if config.pooling != "avg" and "norm.weight" not in tree.names and "fc_norm.weight" in tree.names:
        moved = {f"norm.{kind}": f"fc_norm.{kind}" for kind in ("weight", "bias")}
        entries = [Entry(e.native, (tree.names[moved[e.native]],)) if e.native in moved else e for e in entries]
    if "pos_embed" in tree.names:
        entries = _with_positions(entries, tree, config)
    _require_all_known(tree, entries, explained)
    return entries


def _with_positions(entries: list[Entry], tree: Tree, config: ViTConfig) -> list[Entry]:
    """Where the file's table has other rows than the native one: rows of prefix tokens are added to the tokens."""
    stored = tree.names["pos_embed"]
    rows = tree.shape("pos_embed")
    sincos = config.position_embedding.startswith("sincos")
    own = 0 if sincos else config.num_position_prefix
    extra = 0 if rows is None else rows[-2] - config.num_patches - own
    if sincos:
        return [beside_fixed_table(e, stored, config, extra) if e.native == CARRIER else e for e in entries]
    if extra == 0 or extra != config.num_prefix_tokens - own:
        return entries  # other shapes are told by `require_shapes`
    counts = {"cls_token": config.class_token, "dist_token": config.distillation_token}
    tokens = [name for name, there in counts.items() if there] + ["reg_token"] * config.num_register_tokens
    kept = own
    changed = []
    for entry in entries:
        if entry.native == "pos_embed":
            changed.append(Entry("pos_embed", entry.foreign, _rows_codec(kept, extra)))
        elif entry.native in tokens[kept:]:
            start, stop = tokens.index(entry.native), tokens.index(entry.native) + tokens.count(entry.native)
            changed.append(Entry(entry.native, (*entry.foreign, stored), _added_codec(start, stop)))
        else:
            changed.append(entry)
    return changed


def _rows_codec(kept: int, extra: int) -> Codec:
    """A native table without the rows of prefix tokens that stand behind the first `kept`."""

    def decode(table: Tensor) -> Tensor:
        return torch.cat([table[:, :kept], table[:, kept + extra :]], dim=1)

    def encode(table: Tensor) -> tuple[Tensor, ...]:
        zeros = table.new_zeros(table.shape[0], extra, table.shape[2])
        return (torch.cat([table[:, :kept], zeros, table[:, kept:]], dim=1),)

    return Codec(decode, encode)


def _added_codec(start: int, stop: int) -> Codec:
    """Tokens with their rows of the table added, which the model would add first of all, in float32."""

    def encode(tokens: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("rows of the table are written beside the tokens, not out of them")

    return Codec(lambda tokens, table: tokens.float() + table[:, start:stop].float(), encode)


def beside_fixed_table(entry: Entry, stored: str, config: ViTConfig, stored_prefix: int) -> Entry:
    """`entry`, with the fixed table kept in the file beside its tensor: the native model computes that table itself.

    Args:
        stored: name of the table in the file.
        stored_prefix: how many of its rows, all zero, belong to prefix tokens.
    """
    table = sincos_2d(config.grid, config.width, config.position_embedding)  # type: ignore[arg-type]
    table = torch.cat([table.new_zeros(1, stored_prefix, config.width), table], dim=1)

    def decode(tensor: Tensor, found: Tensor) -> Tensor:
        if not torch.equal(found, table):
            raise ValueError("the table is not the fixed one that the config names")
        return tensor

    return Entry(entry.native, (*entry.foreign, stored), Codec(decode, lambda tensor: (tensor, table)))


def positions_codec(config: ViTConfig, stored_prefix: int) -> Codec:
    """The native table <-> timm's, whose first `stored_prefix` rows belong to prefix tokens; new ones are zeros."""
    extra = stored_prefix - config.num_position_prefix
    return _rows_codec(config.num_position_prefix, extra) if extra else SAME


def _require_all_known(tree: Tree, entries: Sequence[Entry], explained: Callable[[str], str | None]) -> None:
    taken = {name for entry in entries for name in entry.foreign}
    others = tuple(prefix for prefix in tree_prefixes(tree.checkpoint) if prefix and prefix != tree.prefix)
    # A state dict inside the chosen one is another; one around it is not.
    others = tuple(prefix for prefix in others if not tree.prefix.startswith(prefix))
    unknown = [
        f"'{name}' {tuple(tensor.shape)}"
        for name, tensor in tree.checkpoint.tensors.items()
        if name not in taken and explained(name) is None and not name.startswith(others)
    ]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise WeightsError(
            f"{tree.where}: {tensors_are(len(unknown))} left over: {', '.join(unknown[:_SHOWN])}{more}. The model"
            " would compute something else without them, so it is not loaded."
        )


def training_state(name: str) -> str | None:
    """Why a tensor is no loss, where it is the optimizer's or the like."""
    return "the state of the optimizer and its like" if _TRAINING.search(name) else None


def of_a_copy(name: str) -> str | None:
    """Why a tensor under a prefix is no loss: `tree_entries` has seen that it is of a state dict not taken."""
    is_prefixed = re.match(r"[\w.]+/|(module|_orig_mod|backbone|base_encoder|momentum_encoder)\.", name)
    return "another set of the weights" if is_prefixed else None
