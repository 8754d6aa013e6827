from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail.errors import WeightsError
from vitrail.weights.adapters.mapping import native_shapes
from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint, recognise

vit_pytorch = pytest.importorskip("vit_pytorch")
SIZES: dict[str, Any] = {
    "image_size": 16, "patch_size": 4, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 48,
    "dim_head": 64,
}  # fmt: skip


def _randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def _read(tmp_path: Path, state: dict[str, Any], **choices: Any) -> Bundle:
    path = tmp_path / "mine.pt"
    torch.save(state, path)
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


@torch.inference_mode()
def _assert_same(model: nn.Module, bundle: Bundle) -> None:
    config = bundle.config.model
    images = torch.randn(3, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))
    expected, found = model(images), bundle.model(images)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize(
    ("changes", "choices"),
    [
        ({}, {}),
        ({"channels": 1}, {}),
        ({"heads": 1, "dim": 64, "dim_head": 64}, {}),  # no projection of the heads
        ({"dim_head": 24}, {"num_heads": 2}),
        ({"image_size": (8, 20)}, {"image_size": (8, 20)}),
    ],
)
def test_models_of_vit_pytorch_answer_the_same_here(
    tmp_path: Path, pool: str, changes: dict[str, Any], choices: dict[str, Any]
) -> None:
    model = _randomized(vit_pytorch.ViT(**{**SIZES, **changes}, pool=pool))
    bundle = _read(tmp_path, model.state_dict(), **choices)
    _assert_same(model, bundle)
    assert bundle.config.model.patch_norm
    assert bundle.config.model.layer_norm_eps == 1e-5


@pytest.mark.parametrize("choices", [{"image_size": (16, 16)}, {"image_size": (16, 24)}])
def test_simple_vit_answers_the_same_once_its_picture_size_is_given(tmp_path: Path, choices: dict[str, Any]) -> None:
    simple_vit = pytest.importorskip("vit_pytorch.simple_vit")
    model = _randomized(simple_vit.SimpleViT(**{**SIZES, **choices}))
    with pytest.raises(WeightsError, match="--image-size"):
        _read(tmp_path, model.state_dict())
    _assert_same(model, _read(tmp_path, model.state_dict(), **choices))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fn(tokens) + tokens


class PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fn(self.norm(tokens))


class OldMlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(), nn.Linear(hidden, width), nn.Dropout()
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class OldAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, width), nn.Dropout())

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in self.to_qkv(tokens).chunk(3, dim=-1))
        weights = (torch.einsum("bihd,bjhd->bhij", query, key) * self.scale).softmax(-1)
        return self.to_out(torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2))


class OldTransformer(nn.Module):
    def __init__(self, layers: list[nn.ModuleList]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class OldViT(nn.Module):
    """vit-pytorch before 0.7 (names with residuals and "patch_to_embedding"), or from 0.7 to 1.1 (without)."""

    def __init__(self, scale: float, pool: str, is_oldest: bool, width: int = 32) -> None:
        super().__init__()
        self.pool, self.is_oldest = pool, is_oldest
        self.pos_embedding = nn.Parameter(torch.zeros(1, 17, width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        projection = nn.Linear(48, width)
        if is_oldest:
            self.patch_to_embedding = projection
        else:
            self.to_patch_embedding = nn.Sequential(nn.Identity(), projection)
        layers = []
        for _ in range(2):
            parts = [PreNorm(width, OldAttention(width, 2, 64, scale)), PreNorm(width, OldMlp(width, 40))]
            layers.append(nn.ModuleList([Residual(part) for part in parts] if is_oldest else parts))
        self.transformer = OldTransformer(layers)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 5))

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unflatten(3, (4, 4)).unflatten(2, (4, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        tokens = self.patch_to_embedding(patches) if self.is_oldest else self.to_patch_embedding(patches)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embedding
        for layer in self.transformer.layers:
            for part in layer:  # type: ignore[attr-defined]
                tokens = part(tokens) if self.is_oldest else part(tokens) + tokens
        return self.mlp_head(tokens[:, 0] if self.pool == "cls" else tokens.mean(1))


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize(
    ("is_oldest", "scaled_by", "choice"),
    [(True, 32, None), (True, 64, "head"), (True, 32, "width"), (False, 64, None), (False, 32, "width")],
)
def test_old_releases_answer_the_same_with_their_scale_of_queries(
    tmp_path: Path, pool: str, is_oldest: bool, scaled_by: int, choice: Any
) -> None:
    model = _randomized(OldViT(scaled_by**-0.5, pool, is_oldest))
    chosen: Any = {"cls": None, "mean": "mean"}[pool]
    bundle = _read(tmp_path, {"model": model.state_dict(), "epoch": 3}, query_scale=choice, pooling=chosen)
    _assert_same(model, bundle)


def test_what_was_taken_for_the_scale_of_queries_and_for_pooling_is_told(tmp_path: Path) -> None:
    bundle = _read(tmp_path, OldViT(32**-0.5, "cls", is_oldest=True).state_dict())
    assert bundle.certificate is not None
    told = " ".join(bundle.certificate.surgery)
    assert "dim ** -0.5" in told
    assert "--query-scale head" in told
    assert "class token" in told
    assert "--num-heads" in told


def test_the_other_scale_of_queries_gives_other_answers(tmp_path: Path) -> None:
    model = _randomized(OldViT(32**-0.5, "cls", is_oldest=True))
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        by_head = _read(tmp_path, model.state_dict(), query_scale="head").model(images)
        assert float((model(images) - by_head).abs().max()) > 1e-3


def test_nested_and_parallel_checkpoints_with_an_optimizer_are_read(tmp_path: Path) -> None:
    model = _randomized(vit_pytorch.ViT(**SIZES))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    bundle = _read(tmp_path, {"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()})
    _assert_same(model, bundle)
    assert bundle.certificate is not None
    assert {unused.reason for unused in bundle.certificate.unused} == {"beside the model, under 'optimizer_state_dict'"}


def test_every_native_tensor_has_its_entry_and_no_other(tmp_path: Path) -> None:
    for model in (vit_pytorch.ViT(**SIZES), OldViT(0.1, "cls", is_oldest=False)):
        path = tmp_path / "x.pt"
        torch.save(model.state_dict(), path)
        checkpoint = open_checkpoint(path)
        adapter, _ = recognise(checkpoint)
        config = adapter.describe(checkpoint).config
        assert set(native_shapes(config)) <= {entry.native for entry in adapter.entries(config, checkpoint)}
        other = replace(config, num_classes=config.num_classes)
        assert adapter.entries(other, checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"mlp_head.4.weight": torch.zeros(5, 8)}), "GELU in the head"),
        (lambda s: s.update({"transformer.layers.0.0.reattn_weights": torch.zeros(2, 2)}), "left over"),
        (lambda s: s.update(pos_embedding=torch.zeros(16, 32)), "--image-size"),
        (lambda s: s.pop("transformer.layers.1.0.norm.weight"), r"missing: transformer\.layers\.1\.0\.norm\.weight"),
        (lambda s: s.update({"to_patch_embedding.2.weight": torch.zeros(32, 47)}), "47 numbers"),
    ],
)
def test_what_this_model_cannot_be_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    state = dict(vit_pytorch.ViT(**SIZES).state_dict())
    change(state)
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, state)


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    state = vit_pytorch.ViT(**{**SIZES, "dim_head": 24}).state_dict()
    with pytest.raises(WeightsError, match="--num-heads"):
        _read(tmp_path, state)
    with pytest.raises(WeightsError, match="5 heads do not divide"):
        _read(tmp_path, state, num_heads=5)


def test_scaling_the_queries_is_exact_where_the_ratio_is_a_power_of_two(tmp_path: Path) -> None:
    model = _randomized(OldViT(0.1, "cls", is_oldest=True, width=256))
    bundle = _read(tmp_path, model.state_dict(), query_scale="width")
    weight = model.state_dict()["transformer.layers.0.0.fn.fn.to_qkv.weight"]
    found = bundle.model.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(found[:128], weight[:128] * math.sqrt(64 / 256))
    assert torch.equal(found[128:], weight[128:])
