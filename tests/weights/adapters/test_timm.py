"""Checkpoints of timm, read here: the peer's own code says what is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.weights.adapters import timm_architectures
from vitrail.weights.adapters.mapping import native_shapes
from vitrail.weights.adapters.timm import ADAPTER
from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Checkpoint, Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip
DISTILLED, GATED = "deit_base_distilled_patch16_224", "vit_giant_patch14_dinov2"


def peer(name: str = "vit_base_patch16_224", seed: int = 0, **changes: Any) -> Any:
    """A timm model whose every tensor is random, so that no mistake hides behind a zero."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{**TINY, **changes}).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.3)
    return model


def save(model: Any, folder: Path, **config: Any) -> Path:
    """As a timm repository on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def read(path: Path, **choices: Any) -> Bundle:
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


def pictures(size: tuple[int, int] = (32, 32), channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= 1e-5 * theirs.abs().max())


@torch.inference_mode()
def agree(bundle: Bundle, model: Any) -> bool:
    config = bundle.config.model
    images = pictures(config.image_size, config.in_channels)
    return same(bundle.model(images), model(images))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("vit_base_patch16_224", {}, {"pooling": "token", "num_heads": 4}),
        ("vit_base_patch16_224", {"global_pool": "avg"}, {"pooling": "avg"}),
        ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False}, {"pooling": "gap", "class_token": True}),
        ("vit_base_patch16_224", {"fc_norm": True}, {"pooling": "token"}),
        ("vit_base_patch16_224", {"global_pool": "map", "class_token": False}, {"pooling": "map"}),
        ("vit_base_patch16_224", {"global_pool": "map", "act_layer": "gelu_tanh"}, {"activation": "gelu_tanh"}),
        ("vit_base_patch16_gap_224", {"pool_include_prefix": True, "reg_tokens": 2}, {"pool_prefix": True}),
        ("vit_base_patch16_224", {"reg_tokens": 3, "no_embed_class": True}, {"position_for_prefix": False}),
        ("vit_base_patch16_224", {"reg_tokens": 3}, {"num_register_tokens": 3, "position_for_prefix": True}),
        ("vit_base_patch16_224", {"init_values": 0.1, "qkv_bias": False}, {"layer_scale_init": 0.1, "qkv_bias": False}),
        ("vit_base_patch16_224", {"img_size": (16, 40), "in_chans": 1}, {"image_size": (16, 40), "in_channels": 1}),
        ("vit_base_patch16_224", {"pos_embed": "none", "act_layer": "relu"}, {"position_embedding": "none"}),
        ("vit_base_patch16_clip_224", {"pre_norm": False}, {"layer_norm_eps": 1e-5, "input_norm": False}),
        ("vit_base_patch16_clip_224", {}, {"layer_norm_eps": 1e-5, "input_norm": True, "patch_bias": False}),
        ("vit_large_patch14_clip_quickgelu_336", {"global_pool": "token"}, {"activation": "quick_gelu"}),
        ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 0}, {"activation": "quick_gelu", "num_classes": 0}),
        ("vit_base_patch16_clip_224", {"global_pool": "avg", "reg_tokens": 2}, {"pooling": "avg", "input_norm": True}),
        ("vit_base_patch16_224", {"pre_norm": True}, {"layer_norm_eps": 1e-6, "input_norm": True}),
        ("vit_small_patch14_reg4_dinov2", {"num_classes": 0}, {"num_register_tokens": 4, "num_classes": 0}),
        (DISTILLED, {}, {"distillation_token": True}),
        (GATED, {"num_heads": 2}, {"activation": "swiglu", "mlp_size": 32}),
    ],
)
def test_a_repository_of_timm_answers_as_timm_does(
    tmp_path: Path, name: str, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = peer(name, **changes)
    bundle = read(save(model, tmp_path / "hub"))
    assert bundle.certificate is not None
    assert bundle.certificate.family == "timm"
    assert {field: getattr(bundle.config.model, field) for field in expected} == expected
    assert agree(bundle, model)


def test_vit_tiny_of_real_size_answers_as_timm_does_without_a_config(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224").eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    bundle = read(tmp_path / "weights.safetensors")
    assert bundle.config.model.num_heads == 3
    assert bundle.config.preprocessing.crop_fraction == 0.9
    assert len(bundle.config.labels) == 1000
    assert agree(bundle, model)


def test_where_each_setting_was_taken_from_is_said(tmp_path: Path) -> None:
    bundle = read(save(peer(act_layer="gelu_tanh"), tmp_path / "hub"))
    assert bundle.certificate is not None
    sources = {setting.name: setting.source for setting in bundle.certificate.settings}
    assert sources["num_heads"] == sources["activation"] == sources["pooling"] == "config.json"
    assert sources["layer_norm_eps"] == "the architecture 'vit_base_patch16_224'"
    assert sources["qkv_bias"] == "the names and shapes of the tensors"
    told = read(save(peer(), tmp_path / "told"), num_heads=2).certificate
    assert told is not None
    assert {setting.source for setting in told.settings if setting.name == "num_heads"} == {"the caller"}


def test_averaged_weights_are_taken_before_raw_ones_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    raw, averaged = peer(seed=1), peer(seed=2)
    wrapped = {f"module.{name}": tensor for name, tensor in raw.state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    path = tmp_path / "model_best.pth.tar"
    torch.save(
        {
            "epoch": 3,
            "arch": "vit_base_patch16_224",
            "state_dict": wrapped,
            "optimizer": optimizer,
            "state_dict_ema": averaged.state_dict(),
        },
        path,
    )
    bundle = read(path, num_heads=4)
    assert agree(bundle, averaged)
    assert any("state_dict/module." in note for note in bundle.certificate.surgery)  # type: ignore[union-attr]
    assert agree(read(path, num_heads=4, prefix="state_dict/"), raw)
    with pytest.raises(WeightsError, match="'student'"):
        read(path, prefix="student")


def test_preprocessing_labels_and_licence_come_from_the_config(tmp_path: Path) -> None:
    stated = {"interpolation": "bilinear", "crop_pct": 0.8, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    folder = save(peer(), tmp_path / "hub", label_names=["crane", "b", "crane", "d", "e"])
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"].update(stated, license="cc-by-nc-4.0")
    (folder / "config.json").write_text(json.dumps(config))
    bundle = read(folder)
    assert bundle.config.preprocessing == Preprocessing(
        (32, 32), "crop", 0.8, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    )
    assert bundle.config.labels == ("crane (0)", "b", "crane (2)", "d", "e")
    assert bundle.config.licence == "cc-by-nc-4.0"
    assert bundle.config.resampling == bundle.config.patch_resampling == "bicubic_antialias"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "swin_base_patch4_window7_224"}, "swin_base"),
        ({"architecture": "vit_base_patch16_rope_224"}, "rotary"),
        ({"architecture": "vit_base_patch16_rpn_224"}, "norms behind the branches"),
        ({"architecture": "vit_base_patch32_clip_224", "model_args": {"num_heads": 4}}, "pre_norm True against False"),
        ({"model_args": {"num_heads": 4, "pre_norm": True}}, "pre_norm True against False"),
        ({"model_args": {"num_heads": 4, "act_layer": "hard_swish"}}, "activation 'hard_swish'"),
        ({"num_classes": 7}, "num_classes 7 against 5"),
        ({"model_args": {"embed_dim": 64, "num_heads": 4}}, "embed_dim 64 against 32"),
        ({"model_args": {"qk_norm": True}}, "qk_norm"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "no LayerNorm"),
        ({"model_args": {"unheard_of": 1}}, "unheard_of"),
        ({"model_args": {"global_pool": "avgmax"}}, "avgmax"),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "border"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "lanczos"),
        ({"label_names": ["a", "b"]}, "2 labels"),
        ({"label_names": {"1": "a", "2": "b"}}, "from 0 without a gap"),
        ({"label_names": {"a": 0, "b": 1}}, "from 0 without a gap"),
        ({"label_names": "crane"}, "neither a list nor"),
        ({"model_args": [1, 2]}, "model_args of config.json is"),
        ({"pretrained_cfg": "none"}, "pretrained_cfg of config.json is"),
        ({"pretrained_cfg": {"mean": "half"}}, "not numbers"),
        ({"model_args": {"num_heads": 4, "img_size": "big"}}, "picture size 'big'"),
        ({"model_args": {"num_heads": "four"}}, "num_heads"),
    ],
)
def test_what_a_config_says_and_vitrail_cannot_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        read(save(peer(), tmp_path / "hub", **config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "qk_norm"),
        ({"final_norm": False}, "neither 'norm.weight' nor"),
        ({"norm_layer": "rmsnorm"}, "RMSNorm"),
    ],
)
def test_keys_of_what_vitrail_does_not_compute_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    safetensors.torch.save_file(peer(**changes).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "weights.safetensors", num_heads=4)


def test_a_tensor_too_many_or_too_few_stops_the_load(tmp_path: Path) -> None:
    tensors = peer().state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({**tensors, "blocks.1.adapter.weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"left over: 'blocks\.1\.adapter\.weight' \(2,\)"):
        read(path, num_heads=4)
    del tensors["blocks.1.norm2.bias"]
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"missing: blocks\.1\.norm2\.bias"):
        read(path, num_heads=4)
    torch.save({"state_dict": peer().state_dict() | {"odd": torch.zeros(1)}}, tmp_path / "wrapped.pth")
    with pytest.raises(WeightsError, match="left over: 'state_dict/odd'"):
        read(tmp_path / "wrapped.pth", num_heads=4)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("patch_embed.backbone.conv1.0.weight", "not the hybrids' ResNet"),
        ("patch_embed.backbone.stem.norm.running_mean", "batch norms"),
        ("blocks.0.attn.relative_position_bias_table", "BEiT"),
        ("blocks.0.attn.q_proj.weight", "EVA"),
        ("rope_embed.periods", "rotary"),
        ("layers.0.blocks.0.attn.proj.weight", "Swin"),
    ],
)
def test_names_of_relatives_are_refused_for_what_they_mean(tmp_path: Path, name: str, meaning: str) -> None:
    tensors = peer().state_dict() | {name: torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=f"'{re.escape(name)}' means .*{meaning}"):
        read(tmp_path / "weights.safetensors", num_heads=4)


def test_only_an_architecture_that_leaves_its_attention_pooling_out_may_have_it_left_over(tmp_path: Path) -> None:
    pooled = peer("vit_base_patch16_siglip_224", class_token=False)
    without = peer("vit_base_patch16_siglip_gap_224")
    without.load_state_dict({n: t for n, t in pooled.state_dict().items() if not n.startswith("attn_pool.")})
    folder = save(without, tmp_path / "gap")
    safetensors.torch.save_file(pooled.state_dict(), folder / "model.safetensors")
    bundle = read(folder, num_heads=4)
    assert bundle.config.model.pooling == "gap"
    assert agree(bundle, without)
    folder = save(peer(global_pool="avg", fc_norm=False, class_token=False), tmp_path / "avg")
    safetensors.torch.save_file(pooled.state_dict(), folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"left over: 'attn_pool"):
        read(folder)


def test_patches_that_do_not_cover_the_pictures_are_not_cut_off_unseen(tmp_path: Path) -> None:
    model = peer(img_size=35)
    with pytest.raises(WeightsError, match="--image-size 32 32"):
        read(save(model, tmp_path / "hub"))
    assert agree(read(tmp_path / "hub", image_size=(32, 32)), peer())


def test_nothing_is_guessed_where_shapes_leave_it_open(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(peer(img_size=(16, 40)).state_dict(), path)
    with pytest.raises(WeightsError, match="--num-heads"):
        read(path)
    with pytest.raises(WeightsError, match="--image-size H W"):
        read(path, num_heads=4)
    assert agree(read(path, num_heads=4, image_size=(16, 40)), peer(img_size=(16, 40)))


def published_clip() -> dict[str, dict[str, Any]]:
    tags = timm.list_models("vit_*_clip_*", pretrained=True, module="vision_transformer")
    return {tag: timm.get_pretrained_cfg(tag).to_dict() for tag in tags}


@pytest.mark.parametrize("tag", published_clip())
def test_every_published_image_tower_of_clip_is_described(tag: str) -> None:
    stated = published_clip()[tag]
    with torch.device("meta"):
        model = timm.create_model(tag.split(".")[0], depth=1, num_classes=stated["num_classes"])
    hub = {"architecture": tag.split(".")[0], "num_classes": stated["num_classes"], "pretrained_cfg": stated}
    checkpoint = Checkpoint(tag, tag, "safetensors", model.state_dict(), {}, {"config.json": hub})
    if stated["crop_mode"] == "squash" and stated["crop_pct"] < 1:  # two of them
        with pytest.raises(WeightsError, match=r"crop_mode 'squash' with crop_pct 0\.95"):
            ADAPTER.describe(checkpoint)
        return
    description = ADAPTER.describe(checkpoint)
    config, preprocessing = description.config, description.preprocessing
    assert (config.input_norm, config.patch_bias, config.layer_norm_eps) == (True, False, 1e-5)
    assert config.activation == ("quick_gelu" if "quickgelu" in tag else "gelu")
    assert preprocessing.image_size == stated["input_size"][1:]
    assert (preprocessing.mean, preprocessing.std) == (stated["mean"], stated["std"])
    # Weights that were trained with another GELU than timm computes under their name are said to be.
    is_other = bool(stated.get("notes")) and "quickgelu" not in tag
    assert any("QuickGELU" in note for note in description.notes) is is_other


def test_an_image_tower_without_a_config_is_taken_for_openais_and_the_open_question_is_said(tmp_path: Path) -> None:
    model = peer("vit_base_patch16_clip_224")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    bundle = read(tmp_path / "weights.safetensors", num_heads=4)
    assert bundle.certificate is not None
    assert bundle.certificate.family == "timm"
    assert bundle.config.model.layer_norm_eps == 1e-5
    assert bundle.config.preprocessing.mean == timm.data.constants.OPENAI_CLIP_MEAN
    assert bundle.config.preprocessing.std == timm.data.constants.OPENAI_CLIP_STD
    assert any("nothing tells whether" in note for note in bundle.certificate.surgery)
    assert agree(bundle, model)


def test_the_hidden_head_layer_of_old_files_is_not_dropped(tmp_path: Path) -> None:
    model, layer = peer(), torch.nn.Linear(32, 32)
    tensors = model.state_dict() | {f"pre_logits.fc.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save(tensors, tmp_path / "old.pth")
    bundle = read(tmp_path / "old.pth", num_heads=4)
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(pictures()), pre_logits=True)
        assert same(bundle.model(pictures()), model.head(torch.tanh(layer(features))))


def published() -> list[str]:
    return sorted(timm.list_models(module="vision_transformer") + timm.list_models(module="deit"))


@pytest.mark.parametrize("name", published())
def test_every_vit_of_timm_is_read_as_timm_builds_it_or_refused(name: str) -> None:
    """By its name and its keys alone, as from a config.json that says nothing else."""
    with torch.device("meta"):
        model = timm.create_model(name, depth=1, num_classes=0)
    refused = any(part in name for part in _OTHERWISE)
    hub = {
        "architecture": name,
        "num_classes": 0,
        "model_args": {"depth": 1},
        "pretrained_cfg": {"input_size": [3, *model.patch_embed.img_size]},
    }
    checkpoint = Checkpoint(name, name, "safetensors", model.state_dict(), {}, {"config.json": hub})
    if model.patch_embed.img_size[0] % model.patch_embed.patch_size[0]:
        with pytest.raises(WeightsError, match="cut off unseen"):
            ADAPTER.describe(checkpoint)
        return
    if refused:
        with pytest.raises(WeightsError):
            ADAPTER.describe(checkpoint)
        return
    config = ADAPTER.describe(checkpoint).config
    block = model.blocks[0]
    names = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "SiLU": "swiglu", "QuickGELU": "quick_gelu"}
    act = names[type(block.mlp.act).__name__]
    has_fc_norm = not isinstance(model.fc_norm, torch.nn.Identity)
    pooling = model.global_pool if model.global_pool != "avg" or has_fc_norm else "gap"
    assert config.num_heads == block.attn.num_heads
    assert config.layer_norm_eps == block.norm1.eps
    assert config.input_norm is not config.patch_bias is isinstance(model.norm_pre, torch.nn.Identity)
    assert (config.activation, config.pooling) == (act, pooling)
    assert config.image_size == model.patch_embed.img_size
    assert config.position_for_prefix is (not model.no_embed_class) or not config.class_token
    entries = ADAPTER.entries(config, checkpoint)
    assert {entry.native for entry in entries} == native_shapes(config).keys()


# Parts of names of models that compute something else.
_OTHERWISE = (
    "aimv2", "beit3", "_dwee_", "_pwee_", "_dpwee_", "_dlittle_", "_18x2_", "_xp_", "_rpn_", "intern300m",
    "_radio_", "test_vit3", "test_vit4",
)  # fmt: skip


def test_the_tables_of_names_name_models_that_timm_has() -> None:
    for pattern in timm_architectures._NUM_HEADS:
        assert any(re.match(pattern, name) for name in published()), pattern


def test_a_block_that_lacks_a_tensor_is_named_and_does_not_end_the_model(tmp_path: Path) -> None:
    model = timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=64, depth=3, num_heads=1, num_classes=2)
    state = model.state_dict()
    del state["blocks.1.norm1.weight"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"1 tensor is missing: blocks\.1\.norm1\.weight"):
        read_checkpoint(open_checkpoint(tmp_path / "model.pth"), tmp_path / "model.pth")


def test_a_config_that_names_an_architecture_of_another_size_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=2)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    said = {"architecture": "vit_base_patch16_224", "num_classes": 2, "model_args": {"depth": 1}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(WeightsError, match="are of two models: embed_dim 768 against 192"):
        read_checkpoint(open_checkpoint(tmp_path), tmp_path)
