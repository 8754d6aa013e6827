"""A tiny model whose every weight is given by a formula, and what it must answer: intermediates, logits, attention.

The values were computed with two independent implementations loaded from the reference's file layout; tolerances
tell the exact from the tanh GELU, whose logits differ by 5e-5.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

CONFIG = ViTConfig(
    image_size=(4, 4), patch_size=2, num_classes=3, width=8, depth=2, num_heads=2, mlp_size=16, activation="gelu"
)


def flax_shapes() -> list[tuple[str, str, tuple[int, ...]]]:
    """(native name, kind, shape in the reference) in the order of the formula's tensor numbers."""
    shapes: list[tuple[str, str, tuple[int, ...]]] = [
        ("cls_token", "token", (1, 1, 8)),
        ("patch_embed.proj.weight", "conv", (2, 2, 3, 8)),
        ("patch_embed.proj.bias", "bias", (8,)),
        ("pos_embed", "token", (1, 5, 8)),
    ]
    for index in range(2):
        block = f"blocks.{index}."
        shapes += [(block + "norm1.weight", "scale", (8,)), (block + "norm1.bias", "bias", (8,))]
        for part in "qkv":
            shapes += [(f"{block}{part}.weight", "heads_out", (8, 2, 4)), (f"{block}{part}.bias", "bias", (2, 4))]
        shapes += [(block + "attn.proj.weight", "heads_in", (2, 4, 8)), (block + "attn.proj.bias", "bias", (8,))]
        shapes += [(block + "norm2.weight", "scale", (8,)), (block + "norm2.bias", "bias", (8,))]
        shapes += [(block + "mlp.fc1.weight", "dense", (8, 16)), (block + "mlp.fc1.bias", "bias", (16,))]
        shapes += [(block + "mlp.fc2.weight", "dense", (16, 8)), (block + "mlp.fc2.bias", "bias", (8,))]
    shapes += [("norm.weight", "scale", (8,)), ("norm.bias", "bias", (8,))]
    return [*shapes, ("head.weight", "dense", (8, 3)), ("head.bias", "bias", (3,))]


def oracle_state() -> dict[str, torch.Tensor]:
    state = {}
    for number, (name, kind, shape) in enumerate(flax_shapes()):
        index = np.arange(prod(shape), dtype=np.int64)
        values = (((31 * index**2 + 17 * index + 101 * number) % 1009) / 1009 - 0.5).reshape(shape)
        if kind == "bias":
            values = (0.2 * values).reshape(-1)
        elif kind == "scale":
            values = 1 + 0.2 * values
        elif kind == "conv":
            values = values.transpose(3, 2, 0, 1)
        elif kind == "dense":
            values = values.T
        elif kind == "heads_out":
            values = values.reshape(8, 8).T
        elif kind == "heads_in":
            values = values.transpose(2, 0, 1).reshape(8, 8)
        state[name] = torch.from_numpy(values.astype(np.float32).copy())
    for index in range(2):
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"blocks.{index}.{part}.{leaf}") for part in "qkv"]
            state[f"blocks.{index}.attn.qkv.{leaf}"] = torch.cat(parts)
    return state


def oracle(**changes: object) -> VisionTransformer:
    model = VisionTransformer(replace(CONFIG, **changes))  # type: ignore[arg-type]
    model.load_state_dict(oracle_state())
    return model.eval()


def picture() -> torch.Tensor:
    return torch.from_numpy(np.sin(0.5 * np.arange(48)).reshape(1, 4, 4, 3).transpose(0, 3, 1, 2)).float()


def close(actual: torch.Tensor, expected: list[float], atol: float = 2e-6) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=atol, rtol=0)


def test_the_oracle_has_forty_tensors_and_1395_parameters() -> None:
    assert len(flax_shapes()) == 40
    assert sum(parameter.numel() for parameter in oracle().parameters()) == 1395


def test_the_embedding_and_the_last_block_have_the_oracles_values() -> None:
    stages = oracle().forward_intermediates(picture())
    close(
        stages["embed"][0, 0],
        [-0.699703, -0.604559, -0.386521, -0.045590, 0.418236, 0.004955, -0.285431, 0.547076],
    )
    close(
        stages["embed"][0, -1],
        [0.098874, 0.415537, 1.159301, 0.585343, -0.062497, 0.903887, 0.000365, 0.500863],
    )
    close(
        stages["blocks.1"][0, 0],
        [0.520003, -0.779277, 1.080135, -0.964781, 0.605863, 0.601255, 0.398526, -1.010427],
    )
    close(
        stages["norm"][0, 0],
        [0.647961, -1.054570, 1.454102, -1.517168, 0.610024, 0.704203, 0.548461, -1.328853],
    )


def test_the_attention_weights_have_the_oracles_values() -> None:
    weights = oracle().attention_weights(picture())
    close(weights["blocks.0"][0, 0, 0], [0.171199, 0.216378, 0.196236, 0.220367, 0.195821])
    close(weights["blocks.1"][0, 1, 0], [0.186705, 0.077406, 0.392704, 0.087457, 0.255728])


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("gelu", [-0.186598966, 1.631591395, 0.419992410]),
        ("gelu_tanh", [-0.186644647, 1.631694913, 0.420067205]),
    ],
)
def test_the_logits_have_the_oracles_values(activation: str, expected: list[float]) -> None:
    close(oracle(activation=activation)(picture())[0], expected)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("gelu", [-0.172369, 0.571769, 0.233443]), ("gelu_tanh", [-0.172328, 0.571504, 0.233185])],
)
def test_the_mean_of_the_patches_has_the_oracles_logits(activation: str, expected: list[float]) -> None:
    close(oracle(activation=activation, pooling="gap")(picture())[0], expected)
