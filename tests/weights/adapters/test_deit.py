"""DeiT and DeiT III checkpoints, saved as their repository saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.errors import WeightsError
from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip


def peer(name: str = "vit_base_patch16_224", **changes: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**TINY, **changes}).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.3)
    return model


def read(tree: dict[str, Any], path: Path, **choices: Any) -> Bundle:
    torch.save(tree, path)
    return read_checkpoint(open_checkpoint(path, Choices(**{"num_heads": 4, **choices})), path)


@torch.inference_mode()
def agree(bundle: Bundle, model: Any) -> bool:
    size = bundle.config.model.image_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = bundle.model(images), model(images)
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


def left_over(bundle: Bundle) -> dict[str, str]:
    assert bundle.certificate is not None
    return {tensor.name: tensor.reason for tensor in bundle.certificate.unused}


def family(bundle: Bundle) -> str:
    assert bundle.certificate is not None
    return bundle.certificate.family


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
