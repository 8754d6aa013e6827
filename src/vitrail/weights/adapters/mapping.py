"""How tensors of one layout become those of another, in both directions, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.build import build_model
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.vit import VisionTransformer

_SHOWN = 5
_FIRST_BLOCK = "blocks.0."


@dataclass(frozen=True)
class Codec:
    """One native tensor from one or several foreign ones, and back. Both directions only move numbers, so that going
    there and back is exact; codecs that must compute say so in the certificate.

    decode: foreign tensors -> native tensor.  encode: native tensor -> foreign tensors, in the same order.
    """

    decode: Callable[..., Tensor]
    encode: Callable[[Tensor], tuple[Tensor, ...]]


SAME = Codec(lambda tensor: tensor, lambda tensor: (tensor,))
# (in, out) kernels, as Flax and Paddle keep them.
TRANSPOSED = Codec(lambda tensor: tensor.t(), lambda tensor: (tensor.t(),))
# Convolutions (height, width, in, out), as Flax keeps them.
HWIO = Codec(lambda tensor: tensor.permute(3, 2, 0, 1), lambda tensor: (tensor.permute(2, 3, 1, 0),))
# Query, key and value kept apart, (rows, ...) each.
STACKED = Codec(lambda *parts: torch.cat(parts), lambda tensor: tuple(tensor.chunk(3)))


@dataclass(frozen=True)
class Entry:
    """The native tensor of this name is made of these foreign ones."""

    native: str
    foreign: tuple[str, ...]
    codec: Codec = SAME


@lru_cache(maxsize=8)
def native_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the state dict of a model of `config`, in its order."""
    if not isinstance(config, ViTConfig):
        with torch.device("meta"):
            whole = build_model(config, initialize=False)
        return {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
    with torch.device("meta"):
        # One block tells of all: laying out every one would take as long as loading the weights.
        model = VisionTransformer(replace(config, depth=1), initialize=False)
    one = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    block = {name.removeprefix(_FIRST_BLOCK): shape for name, shape in one.items() if name.startswith(_FIRST_BLOCK)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in one.items():
        if name.startswith(_FIRST_BLOCK):
            if name in shapes:
                continue
            shapes |= {f"blocks.{index}.{part}": of for index in range(config.depth) for part, of in block.items()}
        elif name.startswith("pos_embed") and config.position_placement == "every_layer":
            shapes[name] = (config.depth, *shape[1:])
        else:
            shapes[name] = shape
    return shapes


def to_native(tensors: Mapping[str, Tensor], entries: Sequence[Entry], where: str) -> dict[str, Tensor]:
    """The native state dict, in the order of `entries`.

    Raises:
        WeightsError: foreign tensors that are missing, or of a shape that the codec cannot take; names them.
    """
    missing = [name for entry in entries for name in entry.foreign if name not in tensors]
    if missing:
        raise WeightsError(f"{where}: {tensors_are(len(missing))} missing: {_listed(missing)}")
    native = {}
    for entry in entries:
        parts = [tensors[name] for name in entry.foreign]
        try:
            # Contiguous: a product with a transposed view sums in another order, and its last bits differ.
            native[entry.native] = entry.codec.decode(*parts).contiguous()
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"'{name}' {tuple(tensors[name].shape)}" for name in entry.foreign)
            raise WeightsError(f"{where}: {shapes} cannot become '{entry.native}' ({error})") from error
    return native


def from_native(tensors: Mapping[str, Tensor], entries: Sequence[Entry]) -> dict[str, Tensor]:
    """The foreign tensors, contiguous, in the order of `entries`."""
    foreign: dict[str, Tensor] = {}
    for entry in entries:
        parts = entry.codec.encode(tensors[entry.native])
        for name, part in zip(entry.foreign, parts, strict=True):
            foreign[name] = part.contiguous()
    return foreign


def require_shapes(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises WeightsError where native tensors do not have the shapes of `config`: the first five, both shapes."""
    expected = native_shapes(config)
    wrong = [
        f"'{name}' is {tuple(tensors[name].shape)}, the architecture needs {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if wrong:
        raise WeightsError(f"{where}: {tensors_are(len(wrong))} of another shape: {_listed(wrong, '; ')}")


def tensors_are(count: int) -> str:
    """ "1 tensor is", "7 tensors are"."""
    return "1 tensor is" if count == 1 else f"{count:,} tensors are"


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(items[:_SHOWN])
    return f"{shown} and {len(items) - _SHOWN} more" if len(items) > _SHOWN else shown
