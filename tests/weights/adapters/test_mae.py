"""MAE checkpoints, saved as its pre-training and its fine-tuning save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm_peer import IMAGENET, agree, family, left_over, peer, read

from vitrail.errors import WeightsError
from vitrail.layers.position_embed import sincos_2d

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def fixed(model: Any) -> Any:
    table = sincos_2d(model.patch_embed.grid_size, model.embed_dim, "sincos_2d_mae")
    model.pos_embed.data = torch.cat([table.new_zeros(1, 1, model.embed_dim), table], dim=1)
    return model


def decoder() -> dict[str, torch.Tensor]:
    names = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight",
             "decoder_norm.weight", "decoder_pred.bias")  # fmt: skip
    return {name: torch.ones(1, 4, 8) for name in names}


def test_the_encoder_of_the_pretraining_is_read_bit_by_bit_and_the_decoder_accounted_for(tmp_path: Path) -> None:
    model = fixed(peer(num_classes=0))
    saved = {"model": {**model.state_dict(), **decoder()}, "optimizer": {"state": {0: {"step": torch.ones(())}}}}
    bundle = read({**saved, "epoch": 799, "scaler": {"scale": 65536.0}}, tmp_path / "mae.pth")
    assert family(bundle) == "MAE"
    assert bundle.config.model.position_embedding == "learned_1d"
    assert torch.equal(bundle.model.state_dict()["pos_embed"], model.pos_embed)
    assert (bundle.config.preprocessing.mean, bundle.config.preprocessing.std) == IMAGENET
    assert (bundle.config.preprocessing.interpolation, bundle.config.resampling) == ("bicubic", "bicubic")
    assert agree(bundle, model)
    reasons = left_over(bundle)
    assert {reasons[f"model/{name}"] for name in decoder()} == {"the decoder of the pre-training"}


def test_an_encoder_alone_is_known_by_its_table(tmp_path: Path) -> None:
    model = fixed(peer(num_classes=0))
    bundle = read({"model": model.state_dict()}, tmp_path / "encoder.pth")
    assert family(bundle) == "MAE"
    assert agree(bundle, model)


@pytest.mark.parametrize(("pooling", "expected"), [("avg", "avg"), ("token", "token")])
def test_pooling_of_a_fine_tuned_model_is_told_by_its_keys(tmp_path: Path, pooling: str, expected: str) -> None:
    model = peer(global_pool=pooling)
    bundle = read({"model": model.state_dict(), "epoch": 99}, tmp_path / "tuned.pth")
    # With the class token nothing tells it from DeiT's, which computes the same.
    assert family(bundle) == ("MAE" if pooling == "avg" else "DeiT")
    assert bundle.config.model.pooling == expected
    assert agree(bundle, model)


def test_pictures_larger_than_224_are_not_cropped(tmp_path: Path) -> None:
    model = peer(global_pool="avg", img_size=448, patch_size=32, depth=1)
    bundle = read({"model": model.state_dict()}, tmp_path / "tuned.pth")
    assert bundle.config.preprocessing.image_size == (448, 448)
    assert bundle.config.preprocessing.crop_fraction == 1.0


def test_a_linear_probe_with_its_norm_is_refused_by_name(tmp_path: Path) -> None:
    tensors = fixed(peer(num_classes=0)).state_dict()
    probe = {"head.0.running_mean": torch.zeros(32), "head.1.weight": torch.zeros(5, 32)}
    with pytest.raises(WeightsError, match=r"'head\.0\.running_mean' means a head of several layers"):
        read({"model": {**tensors, **probe}}, tmp_path / "probe.pth")


def test_a_tensor_too_many_or_too_few_stops_the_load(tmp_path: Path) -> None:
    tensors = {**fixed(peer(num_classes=0)).state_dict(), **decoder()}
    with pytest.raises(WeightsError, match="left over: 'model/odd'"):
        read({"model": {**tensors, "odd": torch.ones(1)}}, tmp_path / "mae.pth")
    del tensors["norm.bias"]
    with pytest.raises(WeightsError, match="norm"):
        read({"model": tensors}, tmp_path / "mae.pth")
