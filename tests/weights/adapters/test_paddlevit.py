from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.adapters.mapping import native_shapes
from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint, recognise

Arrays = dict[str, npt.NDArray[np.float32]]
WIDTH, DEPTH, HIDDEN, PATCH, CLASSES, HEADS = 24, 2, 40, 4, 7, 3


def _arrays(head_dim: int = 8, rows: int = 17, qkv_bias: bool = True) -> Arrays:
    """What PaddleViT's vit.py saves: linear weights as (in, out)."""
    random = np.random.default_rng(0)
    inner = HEADS * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "position_embedding": (1, rows, WIDTH),
        "patch_embedding.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embedding.patch_embedding.bias": (WIDTH,),
    }
    for index in range(DEPTH):
        layer = f"encoder.layers.{index}."
        for norm in ("attn_norm", "mlp_norm"):
            shapes |= {f"{layer}{norm}.weight": (WIDTH,), f"{layer}{norm}.bias": (WIDTH,)}
        shapes |= {f"{layer}attn.qkv.weight": (WIDTH, 3 * inner)}
        shapes |= {f"{layer}attn.qkv.bias": (3 * inner,)} if qkv_bias else {}
        shapes |= {f"{layer}attn.out.weight": (inner, WIDTH), f"{layer}attn.out.bias": (WIDTH,)}
        shapes |= {f"{layer}mlp.fc1.weight": (WIDTH, HIDDEN), f"{layer}mlp.fc1.bias": (HIDDEN,)}
        shapes |= {f"{layer}mlp.fc2.weight": (HIDDEN, WIDTH), f"{layer}mlp.fc2.bias": (WIDTH,)}
    shapes |= {"encoder.encoder_norm.weight": (WIDTH,), "encoder.encoder_norm.bias": (WIDTH,)}
    shapes |= {"classifier.weight": (WIDTH, CLASSES), "classifier.bias": (CLASSES,)}
    return {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def _answers(arrays: Arrays, images: Tensor) -> Tensor:
    """PaddleViT's forward pass, written out."""
    at = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        out = x @ at[f"{name}.weight"]
        return out + at[f"{name}.bias"] if f"{name}.bias" in at else out

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), at[f"{name}.weight"], at[f"{name}.bias"], 1e-6)

    patch = "patch_embedding.patch_embedding"
    x = F.conv2d(images, at[f"{patch}.weight"], at[f"{patch}.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([at["cls_token"].expand(len(x), -1, -1), x], 1) + at["position_embedding"]
    for index in range(DEPTH):
        layer = f"encoder.layers.{index}."
        parts = linear(norm(x, f"{layer}attn_norm"), f"{layer}attn.qkv").chunk(3, -1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        x = x + linear((weights @ value).transpose(1, 2).flatten(2), f"{layer}attn.out")
        x = x + linear(F.gelu(linear(norm(x, f"{layer}mlp_norm"), f"{layer}mlp.fc1")), f"{layer}mlp.fc2")
    return linear(norm(x, "encoder.encoder_norm")[:, 0], "classifier")


def _read(tmp_path: Path, state: dict[str, Any], protocol: int = 4, **choices: Any) -> Bundle:
    path = tmp_path / "vit.pdparams"
    path.write_bytes(pickle.dumps(state, protocol=protocol))
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"head_dim": 6}])
@pytest.mark.parametrize("is_first_release", [False, True])
def test_paddlevits_model_answers_the_same_here(
    tmp_path: Path, protocol: int, options: dict[str, Any], is_first_release: bool
) -> None:
    arrays = _arrays(**options)
    state: dict[str, Any] = dict(arrays)
    if is_first_release:
        state["patch_embedding.cls_token"] = state.pop("cls_token")
        state["patch_embedding.position_embeddings"] = state.pop("position_embedding")
    state["StructuredToParameterName@@"] = {name: f"linear_{number}.w_0" for number, name in enumerate(arrays)}
    bundle = _read(tmp_path, state, protocol, num_heads=HEADS)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = _answers(arrays, images)
    with torch.inference_mode():
        found = bundle.model(images)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_pictures_are_prepared_as_its_model_zoo_says(tmp_path: Path) -> None:
    bundle = _read(tmp_path, _arrays(), num_heads=HEADS)
    preprocessing = bundle.config.preprocessing
    assert (preprocessing.crop_fraction, preprocessing.interpolation) == (0.875, "bicubic")
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    large = _read(tmp_path, _arrays(rows=96 * 96 + 1), num_heads=HEADS)
    assert large.config.model.image_size == (384, 384)
    assert large.config.preprocessing.crop_fraction == 1.0


def test_every_native_tensor_has_its_entry(tmp_path: Path) -> None:
    path = tmp_path / "vit.pdparams"
    path.write_bytes(pickle.dumps(_arrays(), protocol=4))
    checkpoint = open_checkpoint(path, Choices(num_heads=HEADS))
    adapter, reason = recognise(checkpoint)
    assert (adapter.name, checkpoint.container) == ("paddlevit", "paddle")
    assert "attn_norm" in reason
    config = adapter.describe(checkpoint).config
    assert set(native_shapes(config)) <= {entry.native for entry in adapter.entries(config, checkpoint)}


@pytest.mark.parametrize("name", ["pre_logits.0.weight", "classifier.0.weight"])
def test_its_hidden_layer_with_a_relu_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"'{name}'.*ReLU"):
        _read(tmp_path, {**_arrays(), name: np.zeros((WIDTH, WIDTH), np.float32)}, num_heads=HEADS)


def test_heads_and_picture_sizes_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--num-heads"):
        _read(tmp_path, _arrays())
    with pytest.raises(WeightsError, match="--image-size"):
        _read(tmp_path, _arrays(rows=13), num_heads=HEADS)
    bundle = _read(tmp_path, _arrays(rows=13), num_heads=HEADS, image_size=(12, 16))
    assert bundle.config.model.image_size == (12, 16)


def test_a_tensor_that_no_one_knows_stops_the_load(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"left over: 'encoder\.gate'"):
        _read(tmp_path, {**_arrays(), "encoder.gate": np.ones(3, np.float32)}, num_heads=HEADS)
