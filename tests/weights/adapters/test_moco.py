"""MoCo v3 checkpoints, saved as its training saves them."""

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
    """With the table that MoCo v3 computes in float32, a row of zeros for the class token first."""
    grid, width = model.patch_embed.grid_size, model.embed_dim
    omega = 1.0 / 10000.0 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    slow, fast = torch.meshgrid(torch.arange(grid[0]).float(), torch.arange(grid[1]).float(), indexing="ij")
    angles = [torch.outer(position.flatten(), omega) for position in (slow, fast)]
    table = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    model.pos_embed.data = torch.cat([torch.zeros(1, width), table])[None]
    return model


def pretraining(model: Any) -> dict[str, Any]:
    encoder = model.state_dict()
    projector = {f"head.{index}.weight": torch.ones(8, 8) for index in (0, 3, 6)}
    projector |= {f"head.{index}.running_mean": torch.ones(8) for index in (1, 4, 7)}
    state = {f"module.base_encoder.{name}": tensor for name, tensor in {**encoder, **projector}.items()}
    state |= {f"module.momentum_encoder.{name}": -tensor for name, tensor in {**encoder, **projector}.items()}
    state |= {"module.predictor.0.weight": torch.ones(8, 8), "module.predictor.4.num_batches_tracked": torch.tensor(3)}
    optimizer = {"state": {0: {"mu": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": optimizer, "scaler": {"scale": 1.0}}


def test_the_encoder_of_the_pretraining_is_read_and_the_rest_is_accounted_for(tmp_path: Path) -> None:
    model = fixed(peer(num_classes=0))
    bundle = read(pretraining(model), tmp_path / "moco.pth.tar")
    assert family(bundle) == "MoCo v3"
    assert bundle.config.model.num_classes == 0
    assert bundle.config.preprocessing.interpolation == "bilinear"
    assert (bundle.config.preprocessing.mean, bundle.config.preprocessing.std) == IMAGENET
    assert bundle.config.preprocessing.crop_fraction == 0.875
    assert bundle.config.resampling == "bicubic"
    assert torch.equal(bundle.model.state_dict()["pos_embed"], model.pos_embed)
    assert agree(bundle, model)
    reasons = left_over(bundle)
    assert "projection head" in reasons["state_dict/module.base_encoder.head.0.weight"]
    assert "running average" in reasons["state_dict/module.momentum_encoder.cls_token"]
    assert "prediction head" in reasons["state_dict/module.predictor.0.weight"]


def test_the_momentum_encoder_is_there_for_the_asking(tmp_path: Path) -> None:
    model = fixed(peer(num_classes=0))
    bundle = read(pretraining(model), tmp_path / "moco.pth", prefix="state_dict/module.momentum_encoder.")
    assert torch.equal(bundle.model.state_dict()["norm.weight"], -model.norm.weight)


def test_vit_small_has_twelve_heads_though_every_other_one_has_six(tmp_path: Path) -> None:
    model = fixed(peer(embed_dim=384, num_heads=12, mlp_ratio=4, depth=12, num_classes=0))
    bundle = read(pretraining(model), tmp_path / "moco.pth", num_heads=None)
    assert bundle.config.model.num_heads == 12
    assert agree(bundle, model)


def test_the_linear_probe_keeps_its_head(tmp_path: Path) -> None:
    model = fixed(peer())
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    saved = {"epoch": 90, "arch": "vit_small", "state_dict": state, "best_acc1": torch.tensor(73.2)}
    bundle = read(saved, tmp_path / "linear.pth.tar")
    assert family(bundle) == "MoCo v3"
    assert bundle.config.model.num_classes == 5
    assert agree(bundle, model)


def test_an_encoder_alone_is_known_by_its_table_and_asks_for_heads_of_an_unknown_width(tmp_path: Path) -> None:
    model = fixed(peer(num_classes=0))
    assert family(read(model.state_dict(), tmp_path / "encoder.pth")) == "MoCo v3"
    with pytest.raises(WeightsError, match="--num-heads"):
        read(model.state_dict(), tmp_path / "encoder.pth", num_heads=None)
    model.pos_embed.data[:, 1:] = sincos_2d((4, 4), 32, "sincos_2d_mae")
    assert family(read(model.state_dict(), tmp_path / "encoder.pth")) == "MAE"


def test_a_tensor_too_many_or_too_few_stops_the_load(tmp_path: Path) -> None:
    saved = pretraining(fixed(peer(num_classes=0)))
    saved["state_dict"]["module.base_encoder.blocks.0.gate"] = torch.ones(3)
    with pytest.raises(WeightsError, match=r"left over: 'state_dict/module\.base_encoder\.blocks\.0\.gate' \(3,\)"):
        read(saved, tmp_path / "moco.pth")
    del saved["state_dict"]["module.base_encoder.blocks.0.gate"]
    del saved["state_dict"]["module.base_encoder.blocks.1.mlp.fc2.bias"]
    with pytest.raises(WeightsError, match=r"missing: state_dict/module\.base_encoder\.blocks\.1\.mlp\.fc2\.bias"):
        read(saved, tmp_path / "moco.pth")
