"""DINO and DINOv2 checkpoints, saved as their repositories save them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm_peer import IMAGENET, agree, family, left_over, peer, read

from vitrail.errors import WeightsError
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def test_a_backbone_without_a_head_is_read_as_dino_and_as_timm_for_the_asking(tmp_path: Path) -> None:
    model = peer(num_classes=0)
    bundle = read(model.state_dict(), tmp_path / "dino.pth")
    assert family(bundle) == "DINO"
    assert bundle.certificate is not None
    assert "--from timm" in bundle.certificate.reason
    assert bundle.config.resampling == "bicubic_offset"
    assert (bundle.config.preprocessing.mean, bundle.config.preprocessing.std) == IMAGENET
    assert bundle.config.preprocessing.crop_fraction == 0.875
    assert bundle.config.labels == ()
    assert agree(bundle, model)
    as_timm = read(model.state_dict(), tmp_path / "dino.pth", family="timm")
    assert as_timm.config.preprocessing.mean == (0.5, 0.5, 0.5)
    assert agree(as_timm, model)


def test_a_timm_repository_without_a_head_is_not_taken_for_dino(tmp_path: Path) -> None:
    timm.models.save_for_hf(peer(num_classes=0), tmp_path / "hub", safe_serialization=False)
    bundle = read_checkpoint(open_checkpoint(tmp_path / "hub"), tmp_path / "hub")
    assert family(bundle) == "timm"


def test_the_teacher_is_taken_of_a_full_checkpoint_unless_the_student_is_asked_for(tmp_path: Path) -> None:
    tensors = peer(num_classes=0).state_dict()
    head = {"mlp.0.weight": torch.ones(8, 8), "last_layer.weight_g": torch.ones(9, 1)}
    saved = {
        "student": prefixed("module.backbone.", {name: -tensor for name, tensor in tensors.items()})
        | prefixed("module.head.", head),
        "teacher": prefixed("backbone.", tensors) | prefixed("head.", head),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "epoch": 100,
        "fp16_scaler": {"scale": 1.0},
        "dino_loss": {"center": torch.ones(1, 9)},
    }
    bundle = read(saved, tmp_path / "full.pth")
    assert family(bundle) == "DINO"
    assert torch.equal(bundle.model.state_dict()["norm.weight"], tensors["norm.weight"])
    assert agree(bundle, peer(num_classes=0))
    student = read(saved, tmp_path / "full.pth", prefix="student/")
    assert torch.equal(student.model.state_dict()["norm.weight"], -tensors["norm.weight"])
    saved["teacher"]["backbone.odd"] = torch.ones(1)  # type: ignore[index]
    with pytest.raises(WeightsError, match=r"left over: 'teacher/backbone\.odd'"):
        read(saved, tmp_path / "full.pth")


def dinov2(tensors: dict[str, torch.Tensor], chunk: int | None = None) -> dict[str, torch.Tensor]:
    """timm's names -> those of DINOv2's repository."""
    renamed = {"mask_token": torch.ones(1, 32)}
    for name, tensor in tensors.items():
        name = name.replace("reg_token", "register_tokens")
        if chunk is not None and name.startswith("blocks."):
            renamed |= {name.replace("blocks.", f"blocks.{int(name.split('.')[1]) // chunk}.", 1): tensor}
        else:
            renamed |= {name: tensor}
    return renamed


@pytest.mark.parametrize("chunk", [None, 1])
def test_dinov2_answers_as_timm_does_flat_and_in_chunks(tmp_path: Path, chunk: int | None) -> None:
    model = peer("vit_small_patch14_dinov2", num_classes=0)
    bundle = read(dinov2(model.state_dict(), chunk), tmp_path / "dinov2.pth")
    assert family(bundle) == "DINOv2"
    assert bundle.config.resampling == "bicubic_offset"
    assert bundle.config.preprocessing.crop_fraction == 1.0
    assert left_over(bundle) == {"mask_token": "the mask token of the pre-training"}
    assert agree(bundle, model)


def test_registers_stand_behind_the_class_token_and_have_no_position(tmp_path: Path) -> None:
    """timm folds the class token's row into the token; the repository's file has the row."""
    model = peer("vit_small_patch14_reg4_dinov2", num_classes=0)
    tensors = dinov2(model.state_dict())
    row = torch.randn(1, 1, 32)
    tensors["cls_token"] = tensors["cls_token"] - row
    tensors["pos_embed"] = torch.cat([row, tensors["pos_embed"]], dim=1)
    bundle = read(tensors, tmp_path / "registers.pth")
    assert bundle.config.model.num_register_tokens == 4
    assert bundle.config.model.position_for_prefix
    assert bundle.config.resampling == "bicubic_antialias"
    assert agree(bundle, model)


def test_the_giant_has_gated_mlps(tmp_path: Path) -> None:
    model = peer("vit_giant_patch14_dinov2", num_classes=0)
    tensors = {}
    for name, tensor in dinov2(model.state_dict()).items():
        tensors[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")] = tensor
    assert "blocks.0.mlp.w12.bias" in tensors
    bundle = read(tensors, tmp_path / "giant.pth")
    assert bundle.config.model.activation == "swiglu"
    assert agree(bundle, model)


def test_dinov2s_heads_have_64_features(tmp_path: Path) -> None:
    model = peer("vit_giant_patch14_dinov2", embed_dim=128, num_heads=2, num_classes=0)
    assert read(dinov2(model.state_dict()), tmp_path / "two.pth", num_heads=None).config.model.num_heads == 2


def test_a_linear_classifier_on_the_last_block_reads_class_token_and_mean(tmp_path: Path) -> None:
    model = peer("vit_small_patch14_dinov2", num_classes=0)
    head = torch.nn.Linear(64, 5)
    tensors = prefixed("backbone.", dinov2(model.state_dict())) | prefixed("linear_head.", head.state_dict())
    bundle = read(tensors, tmp_path / "lc.pth")
    assert bundle.config.model.pooling == "token_and_gap"
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = model.forward_features(images)
        theirs = head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1))
        assert torch.allclose(bundle.model(images), theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    tensors["linear_head.weight"] = torch.ones(5, 160)
    with pytest.raises(WeightsError, match="several blocks"):
        read(tensors, tmp_path / "lc.pth")


def test_dinov2s_own_training_keeps_its_teacher_beside_projection_heads(tmp_path: Path) -> None:
    model = peer("vit_small_patch14_dinov2", num_classes=0)
    teacher = prefixed("backbone.", dinov2(model.state_dict(), 1)) | {"dino_head.mlp.0.weight": torch.ones(2, 2)}
    bundle = read({"teacher": teacher}, tmp_path / "teacher.pth")
    assert family(bundle) == "DINOv2"
    assert "projection head" in left_over(bundle)["teacher/dino_head.mlp.0.weight"]
    assert agree(bundle, model)
