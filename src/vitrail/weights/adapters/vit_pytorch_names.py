"""How the releases of vit-pytorch named the tensors of its ViT and SimpleViT, from 0.0.1 (2020) on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitrail.errors import WeightsError
from vitrail.weights.checkpoint import Checkpoint

_PATCH = re.compile(r"(.*)(to_patch_embedding\.1|patch_to_embedding)\.weight")
_BESIDE = re.compile(r"(^|/)(optim\w*|opt|\w*scheduler\w*|\w*scaler\w*|\w*ema\w*)/")


@dataclass(frozen=True)
class BlockNames:
    """Within one block: what precedes the attention's and the MLP's names, and its norms and MLP layers."""

    attention: str
    norm1: str
    norm2: str
    fc1: str
    fc2: tuple[str, ...]  # the last layer's number depends on whether the MLP has dropout


# A residual and a norm wrapped around each part (0.7 and before), a norm wrapped around (0.16 to 1.2), the norm inside.
_BLOCKS = (
    BlockNames("0.fn.fn.", "0.fn.norm", "1.fn.norm", "1.fn.fn.net.0", ("1.fn.fn.net.3", "1.fn.fn.net.2")),
    BlockNames("0.fn.", "0.norm", "1.norm", "1.fn.net.0", ("1.fn.net.3", "1.fn.net.2")),
    BlockNames("0.", "0.norm", "1.net.0", "1.net.1", ("1.net.4", "1.net.3")),
)


@dataclass(frozen=True)
class Names:
    """Where everything is in one file, full names without ".weight" and ".bias".

    Attributes:
        old_patches: the patches' projection is "patch_to_embedding", which releases before 0.7 wrote.
        patch_norms: norms before and behind the projection, or None.
        output: of block 0's attention; None: one head of the whole width, whose output is not projected.
        norm: the final norm; None: there is none.
        norm_in_head: it is the head's first layer, behind the pooling.
        head: None: there is none.
        simple: SimpleViT: computed positions, no class token.
    """

    prefix: str
    old_patches: bool
    projection: str
    patch_norms: tuple[str, str] | None
    block: BlockNames
    fc2: str
    output: str | None
    norm: str | None
    norm_in_head: bool
    head: str | None
    simple: bool

    def layer(self, index: int) -> str:
        return f"{self.prefix}transformer.layers.{index}."


def why_unused(name: str) -> str | None:
    """What training scripts keep beside the model."""
    match = _BESIDE.search(name)
    return None if match is None else f"beside the model, under '{match[2]}'"


def find_prefix(checkpoint: Checkpoint) -> str | None:
    """What stands before the model's names ("model/", "module."); None: no such model is in it.

    Raises:
        WeightsError: several models, and the caller has not chosen one.
    """
    found = []
    for name in checkpoint.tensors:
        match = _PATCH.fullmatch(name)
        if match and any(other.startswith(f"{match[1]}transformer.") for other in checkpoint.tensors):
            found.append(match[1])
    chosen = checkpoint.choices.prefix
    if chosen is not None:
        return next((prefix for prefix in found if prefix.rstrip("/") == chosen.rstrip("/")), None)
    found = [prefix for prefix in found if why_unused(prefix) is None]
    if len(found) > 1:
        listed = ", ".join(f"'{prefix}'" for prefix in found)
        raise WeightsError(f"{checkpoint.where}: several models in it: {listed}; choose one with --prefix")
    return found[0] if found else None


def find_names(checkpoint: Checkpoint) -> Names:
    """Where everything is.

    Raises:
        WeightsError: names that no release of the two models wrote, or of one that cannot be computed here.
    """
    prefix = find_prefix(checkpoint)
    if prefix is None:
        raise WeightsError(f"{checkpoint.where}: no vit-pytorch model is in it, or none under --prefix")
    has = checkpoint.tensors.__contains__
    _require_plain_head(checkpoint, prefix)
    layer = f"{prefix}transformer.layers.0."
    block = next((names for names in _BLOCKS if has(f"{layer}{names.attention}to_qkv.weight")), None)
    if block is None:
        raise WeightsError(
            f"{checkpoint.where}: read as vit-pytorch, and no attention is where its ViT and SimpleViT have it, at"
            f" '{layer}0.to_qkv.weight'; it is another of the models of vit-pytorch, or not of it"
        )
    old_patches = has(f"{prefix}patch_to_embedding.weight")
    first = f"{prefix}patch_to_embedding" if old_patches else f"{prefix}to_patch_embedding.1"
    is_normed = len(checkpoint.shape(f"{first}.weight") or ()) == 1
    patches = [f"{prefix}to_patch_embedding.{number}" for number in (1, 2, 3)]
    simple = has(f"{prefix}linear_head.weight") or has(f"{prefix}linear_head.1.weight")
    head = f"{prefix}{'linear' if simple else 'mlp'}_head"
    in_head, own_norm = has(f"{head}.1.weight"), has(f"{prefix}transformer.norm.weight")
    has_head = in_head or has(f"{head}.weight")
    attention = f"{layer}{block.attention}to_out"
    return Names(
        prefix=prefix,
        old_patches=old_patches,
        projection=patches[1] if is_normed else first,
        patch_norms=(patches[0], patches[2]) if is_normed else None,
        block=block,
        fc2=next((name for name in block.fc2 if has(f"{layer}{name}.weight")), block.fc2[0]),
        output=next((name for name in ("to_out.0", "to_out") if has(f"{attention[:-6]}{name}.weight")), None),
        norm=f"{prefix}transformer.norm" if own_norm else f"{head}.0" if in_head else None,
        norm_in_head=in_head and not own_norm,
        head=(f"{head}.1" if in_head else head) if has_head else None,
        simple=simple,
    )


def _require_plain_head(checkpoint: Checkpoint, prefix: str) -> None:
    for name, releases in (("mlp_head.4.weight", "up to 0.2"), ("mlp_head.2.weight", "around 0.0.1")):
        if f"{prefix}{name}" in checkpoint.tensors:
            raise WeightsError(
                f"{checkpoint.where}: '{prefix}{name}' is of a hidden layer with a GELU in the head, as vit-pytorch's"
                f" releases {releases} had it; it is not read"
            )
