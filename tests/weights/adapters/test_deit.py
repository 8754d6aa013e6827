"""DeiT and DeiT III checkpoints, saved as their repository saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm_peer import IMAGENET, agree, family, left_over, peer, read

from vitrail.errors import WeightsError

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_deit_answers_as_timm_does(tmp_path: Path) -> None:
    model = peer("deit_tiny_patch16_224")
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    raw = {
        "model": model.state_dict(),
        "optimizer": optimizer,
        "model_ema": {name: -tensor for name, tensor in model.state_dict().items()},
    }
    bundle = read(raw, tmp_path / "deit.pth")
    assert family(bundle) == "DeiT"
    assert agree(bundle, model)
    assert (bundle.config.preprocessing.mean, bundle.config.preprocessing.std) == IMAGENET
    assert bundle.config.preprocessing.crop_fraction == 0.875
    assert bundle.config.resampling == "bicubic"
    assert set(left_over(bundle).values()) == {"the state of the optimizer and its like", "another set of the weights"}
    averaged = read(raw, tmp_path / "deit.pth", prefix="model_ema/")
    assert torch.equal(averaged.model.state_dict()["cls_token"], -model.cls_token)


def test_deit_tiny_of_real_size_has_three_heads_and_the_names_of_imagenet(tmp_path: Path) -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    bundle = read({"model": model.state_dict()}, tmp_path / "deit.pth", num_heads=None)
    assert bundle.config.model.num_heads == 3
    assert len(bundle.config.labels) == 1000
    assert agree(bundle, model)


def test_a_distilled_model_answers_with_the_mean_of_its_heads(tmp_path: Path) -> None:
    model = peer("deit_tiny_distilled_patch16_224")
    bundle = read({"model": model.state_dict()}, tmp_path / "deit.pth")
    assert bundle.config.model.distillation_token
    assert bundle.certificate is not None
    assert any("averaged" in sentence for sentence in bundle.certificate.surgery)
    assert agree(bundle, model)


def test_deit_three_scales_its_branches_and_gives_the_class_token_no_position(tmp_path: Path) -> None:
    model = peer("deit3_small_patch16_224")
    tensors = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
               for name, tensor in model.state_dict().items()}  # fmt: skip
    assert "blocks.1.gamma_2" in tensors
    bundle = read({"model": tensors}, tmp_path / "deit3.pth")
    assert family(bundle) == "DeiT"
    assert not bundle.config.model.position_for_prefix
    assert bundle.config.model.layer_scale_init is not None
    assert agree(bundle, model)


def test_labels_of_the_caller_must_fit_the_head(tmp_path: Path) -> None:
    tensors = peer("deit_tiny_patch16_224").state_dict()
    assert read({"model": tensors}, tmp_path / "d.pth", labels=tuple("abcde")).config.labels == tuple("abcde")
    with pytest.raises(WeightsError, match="2 labels"):
        read({"model": tensors}, tmp_path / "d.pth", labels=("a", "b"))


def test_beit_which_looks_alike_is_refused_by_name(tmp_path: Path) -> None:
    tensors = peer().state_dict() | {"blocks.0.gamma_1": torch.ones(32), "blocks.0.attn.q_bias": torch.ones(32)}
    with pytest.raises(WeightsError, match=r"'blocks\.0\.attn\.q_bias' means BEiT's attention"):
        read({"model": tensors}, tmp_path / "beit.pth")
