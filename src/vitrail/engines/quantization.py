"""Linear layers in 8-bit integers: weights by output channel, activations by ranges measured on pictures.

Activations become 0 to 255 by factors and shifts that were settled beforehand (static quantization; Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference"). Where they come from a
pointwise operation, that operation gives each channel its own factor at no cost, and the weights take the inverse: how
far, between one factor for all and one for each, is what leaves the smallest error in the layer's own answers (after
SmoothQuant, Xiao et al. 2022, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitrail.engines.folding import FoldedMlp, FoldedViT
from vitrail.engines.linear import Linear, fused_activation
from vitrail.engines.products import Int8Weights, deposit
from vitrail.errors import ConfigError

_LEVELS, _CENTRE = 255, 128
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the factors by channel: 0 one for all, 1 one for each
_CLIPS = (1.0, 0.9, 0.8, 0.65, 0.5)  # of the measured range: rare large values may cost all others their precision
_ROWS_KEPT, _ROWS_TRIED = 4096, 512


@dataclass
class Observed:
    """What went into a layer: range by channel, and a sample of rows."""

    low: Tensor  # (features in,)
    high: Tensor
    rows: Tensor  # (rows, features in)


class Int8Linear(nn.Module):
    """A `Linear` whose product is of 8-bit integers.

    Args:
        linear: whose weights it takes.
        observed: its inputs on pictures.
        dtype: of what it gives.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, linear: Linear, observed: Observed, dtype: torch.dtype) -> None:
        super().__init__()
        weight = linear.weight.detach()
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        middle, reach = (observed.low + observed.high) / 2, (observed.high - observed.low) / 2
        reach = reach.clamp_min(reach.amax() * 1e-4 + 1e-12)  # a channel that never moved
        rows = observed.rows[:: max(1, len(observed.rows) // _ROWS_TRIED)]
        wanted = rows @ weight.t()

        def made(strength: float, clip: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            factor = (reach / reach.amax()) ** strength
            step = clip * float((reach / factor).amax()) * 2 / _LEVELS
            quantized, weight_step = quantize_weight(weight * factor)
            seen = ((rows - middle) / (factor * step)).round().clamp(-_CENTRE, _LEVELS - _CENTRE) * step
            got = seen @ (quantized.float() * weight_step[:, None]).t() + weight @ middle
            return factor * step, quantized, weight_step * step, wanted - got

        strength = min(_STRENGTHS, key=lambda strength: float(made(strength, 1.0)[3].square().mean()))
        clip = min(_CLIPS, key=lambda clip: float(made(strength, clip)[3].square().mean()))
        factor, quantized, scale, error = made(strength, clip)
        self.register_buffer("factor", 1 / factor)
        self.register_buffer("shift", _CENTRE - middle / factor)
        # What rounding adds on the average is taken off again.
        bias = bias + weight @ middle + error.mean(0)
        self.weights = Int8Weights(pack_int8(quantized), scale, bias, _CENTRE)
        self.product = Int8Product(self.weights, dtype)

    def quantize(self, features: Tensor) -> Tensor:
        """(..., features in) -> uint8."""
        return (features.float() * self.factor + self.shift).round().clamp(0, _LEVELS).to(torch.uint8)

    def forward(self, features: Tensor) -> Tensor:
        """(..., features in) -> (..., features out)."""
        return self.product(self.quantize(features))


class Int8Product(nn.Module):
    """bytes x weights of 8 bits, with an activation behind it where oneDNN can do it.

    Args:
        weights: see `Int8Weights`.
        dtype: of the answer; uint8 for bytes again.
        activation: see `fused_activation`.
    """

    ticket: Tensor

    def __init__(
        self, weights: Int8Weights, dtype: torch.dtype, activation: tuple[str, str] = ("none", "none")
    ) -> None:
        super().__init__()
        self.size, self.dtype, self.activation = len(weights.scale), dtype, activation
        self.register_buffer("ticket", deposit(self, weights))

    def forward(self, features: Tensor) -> Tensor:
        """(..., features in) uint8 -> (..., features out)."""
        return torch.ops.vitrail.int8_linear(features, self.ticket, self.size, self.dtype, *self.activation)


class Int8Mlp(nn.Module):
    """A `FoldedMlp` whose hidden features leave the first product as bytes, activation and rounding included."""

    def __init__(self, mlp: FoldedMlp, first: Observed, hidden: Observed, dtype: torch.dtype) -> None:
        super().__init__()
        activation = fused_activation(mlp.act)
        if activation is None:
            raise ValueError(f"oneDNN has no {type(mlp.act).__name__} behind a product")
        assert isinstance(mlp.fc1, Linear)
        assert isinstance(mlp.fc2, Linear)
        self.fc1 = Int8Linear(mlp.fc1, first, dtype)
        weight = mlp.fc2.weight.detach()
        bias = torch.zeros(len(weight)) if mlp.fc2.bias is None else mlp.fc2.bias.detach()
        rows = hidden.rows[:: max(1, len(hidden.rows) // _ROWS_TRIED)]
        quantized, weight_step = quantize_weight(weight)
        plain, wanted = quantized.float() * weight_step[:, None], rows @ weight.t()
        low, high = min(0.0, float(hidden.low.min())), max(0.0, float(hidden.high.max()))

        def made(clip: float) -> tuple[float, int, Tensor]:
            step = max((clip * high - low) / _LEVELS, 1e-12)
            zero = round(-low / step)
            seen = ((rows / step).round() + zero).clamp(0, _LEVELS) - zero
            return step, zero, wanted - (seen * step) @ plain.t()

        step, zero, error = made(min(_CLIPS, key=lambda clip: float(made(clip)[2].square().mean())))
        to_bytes = replace(self.fc1.weights, output_step=step, output_zero=zero)
        self.fc1.product = Int8Product(to_bytes, torch.uint8, activation)
        self.fc2 = Int8Product(Int8Weights(pack_int8(quantized), weight_step * step, bias + error.mean(0), zero), dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        return self.fc2(self.fc1(tokens))


def has_int8() -> bool:
    """Whether 8-bit products are there and exact: processors without instructions of their own for them add pairs in 16
    bits, which saturate."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return False
    largest = torch.full((64, 64), 127, dtype=torch.int8)
    weights = Int8Weights(pack_int8(largest), torch.ones(64), torch.zeros(64), 0)
    got = Int8Product(weights, torch.float32)(torch.full((2, 64), 255, dtype=torch.uint8))
    return bool((got == 255 * 127 * 64).all())


def pack_int8(weight: Tensor) -> Tensor:
    """(out, in) int8 -> the same in oneDNN's own layout."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) float -> (out, in) int8 between -127 and 127, and the step of each row, (out,)."""
    step = weight.abs().amax(1).clamp_min(1e-12) / 127
    return (weight / step[:, None]).round().to(torch.int8), step


@torch.inference_mode()
def observe(model: FoldedViT, batches: Iterable[Tensor]) -> dict[str, Observed]:
    """What goes into every `Linear` of the blocks, by name, on pictures (B, C, H, W) uint8."""
    observed: dict[str, Observed] = {}

    def watch(name: str, features: Tensor) -> None:
        rows = features.flatten(0, -2).float()
        low, high = rows.amin(0), rows.amax(0)
        past = observed.get(name)
        if past is None:
            observed[name] = Observed(low, high, _sample(rows, _ROWS_TRIED))
            return
        past.low, past.high = torch.minimum(past.low, low), torch.maximum(past.high, high)
        if len(past.rows) < _ROWS_KEPT:
            past.rows = torch.cat([past.rows, _sample(rows, _ROWS_TRIED)])

    with ExitStack() as hooks:
        for name, module in model.blocks.named_modules():
            if isinstance(module, Linear):
                hook = module.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs[0]))
                hooks.callback(hook.remove)
        count = 0
        for images in batches:
            model(images)
            count += len(images)
    if not count:
        raise ConfigError("int8 needs pictures to measure its ranges on, and there are none: give a few dozen")
    return observed


def _sample(rows: Tensor, count: int) -> Tensor:
    return rows[:: max(1, len(rows) // count)].clone()


def quantize(model: FoldedViT, observed: dict[str, Observed], dtype: torch.dtype) -> None:
    """Make every product of the blocks one of integers, in place; patch embedding and head stay in floating point.

    Args:
        model: in float32.
        observed: see `observe`.
        dtype: of everything between the products.
    """
    for index, block in enumerate(model.blocks):
        for name in ("qkv", "query", "key_value", "proj"):
            linear = getattr(block, name)
            if linear is not None:
                setattr(block, name, Int8Linear(linear, observed[f"{index}.{name}"], dtype))
        mlp = block.mlp
        assert isinstance(mlp, FoldedMlp)
        first, hidden = observed[f"{index}.mlp.fc1"], observed[f"{index}.mlp.fc2"]
        if fused_activation(mlp.act) is not None:
            block.mlp = Int8Mlp(mlp, first, hidden, dtype)
        else:
            assert isinstance(mlp.fc1, Linear)
            assert isinstance(mlp.fc2, Linear)
            mlp.fc1, mlp.fc2 = Int8Linear(mlp.fc1, first, dtype), Int8Linear(mlp.fc2, hidden, dtype)
