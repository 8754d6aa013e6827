"""Hugging Face ViT against transformers itself, and what its two JSON files may say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import open_picture
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters.evaluation_rules import crop_fraction
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint
from vitrail.weights.writing import write_layout

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {0: "cat", 1: "dog", 2: "elk"},
    "label2id": {"cat": 0, "dog": 1, "elk": 2},
}
NATIVE = ViTConfig(
    image_size=(16, 16), patch_size=8, num_classes=3, width=32, depth=2, num_heads=4, mlp_size=48, layer_norm_eps=1e-6
)
LABELS = ("cat", "dog", "elk")


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


def scatter(model: Any) -> Any:
    """Every parameter away from the zeros and ones of its initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def read(path: Path, **choices: Any) -> Bundle:
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


def pictures(config: ViTConfig) -> torch.Tensor:
    return torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(3))


def assert_same_answers(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def native_bundle(config: ViTConfig, labels: tuple[str, ...], preprocessing: Preprocessing | None = None) -> Bundle:
    preprocessing = preprocessing or Preprocessing(config.image_size, "squash")
    model = scatter(VisionTransformer(config, generator=torch.Generator().manual_seed(0)))
    return Bundle(model, BundleConfig(model=config, labels=labels, preprocessing=preprocessing), Path("made"))


def edit(folder: Path, name: str, **changes: Any) -> Path:
    """Change fields of a JSON file; None takes one out."""
    path = folder / name
    values = json.loads(path.read_text()) if path.exists() else {}
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


@pytest.fixture
def folder(transformers: ModuleType, tmp_path: Path) -> Path:
    """A small classifier as transformers saves it."""
    scatter(transformers.ViTForImageClassification(transformers.ViTConfig(**TINY))).save_pretrained(tmp_path / "peer")
    return tmp_path / "peer"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
        {"hidden_act": "gelu_fast"},
        {"hidden_act": "relu", "qkv_bias": False},
        {"image_size": [16, 24], "num_channels": 1},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@torch.inference_mode()
def test_what_transformers_saves_answers_the_same_here(
    changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    peer = scatter(transformers.ViTForImageClassification(transformers.ViTConfig(**{**TINY, **changes})))
    peer.save_pretrained(tmp_path)

    bundle = read(tmp_path)

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model(images), peer(images).logits)
    assert bundle.config.labels == LABELS


@torch.inference_mode()
def test_a_real_size_answers_the_same_in_both_directions(transformers: ModuleType, tmp_path: Path) -> None:
    config = replace(get_config("ViT-Ti/16"), num_classes=10)
    bundle = native_bundle(config, tuple(f"kind {index}" for index in range(10)))
    write_layout(bundle, "huggingface", tmp_path / "native")
    peer = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "native")
    images = pictures(config)
    expected = bundle.model(images)
    assert_same_answers(peer(images).logits, expected)

    peer.save_pretrained(tmp_path / "peer")

    assert_same_answers(read(tmp_path / "peer").model(images), expected)


def test_both_spellings_of_the_names_give_the_same_tensors(transformers: ModuleType, tmp_path: Path) -> None:
    peer = scatter(transformers.ViTForImageClassification(transformers.ViTConfig(**TINY)))
    peer.save_pretrained(tmp_path / "file")
    peer.save_pretrained(tmp_path / "memory", save_original_format=False)
    names = [set(load_file(tmp_path / kind / "model.safetensors")) for kind in ("file", "memory")]
    assert names[0] != names[1]  # transformers 5 renamed them in memory

    first, second = (read(tmp_path / kind).model.state_dict() for kind in ("file", "memory"))

    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.inference_mode()
def test_a_bare_encoder_gives_the_same_tokens_and_its_pooler_is_named_as_unused(
    transformers: ModuleType, tmp_path: Path
) -> None:
    peer = scatter(transformers.ViTModel(transformers.ViTConfig(**TINY)))
    peer.save_pretrained(tmp_path)

    bundle = read(tmp_path)

    images = pictures(bundle.config.model)
    assert_same_answers(bundle.model.forward_features(images), peer(images).last_hidden_state)
    assert bundle.config.model.num_classes == 0
    assert bundle.config.labels == ()
    assert bundle.certificate is not None
    assert {tensor.reason for tensor in bundle.certificate.unused} == {"the pooler is not used by the classifier"}


@torch.inference_mode()
def test_the_encoders_of_pretraining_models_are_read_without_their_decoders(
    transformers: ModuleType, tmp_path: Path
) -> None:
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    masked = scatter(transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**TINY)))
    mae = scatter(transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**TINY, **decoder, mask_ratio=0.0)))
    msn = scatter(transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**TINY)))
    for name, peer in (("masked", masked), ("mae", mae), ("msn", msn)):
        peer.save_pretrained(tmp_path / name)

    bundles = {name: read(tmp_path / name) for name in ("masked", "mae", "msn")}

    images = pictures(bundles["masked"].config.model)
    assert_same_answers(bundles["masked"].model.forward_features(images), masked.vit(images).last_hidden_state)
    # MAE shuffles the patches even where it masks none: their order is lost, the class token's answer is not.
    expected = mae.vit(images).last_hidden_state[:, 0]
    assert_same_answers(bundles["mae"].model.forward_features(images)[:, 0], expected)
    assert bundles["mae"].config.preprocessing.mean == (0.485, 0.456, 0.406)
    assert_same_answers(bundles["msn"].model(images), msn(images).logits)
    assert bundles["msn"].config.model.layer_norm_eps == 1e-6
    for name in ("masked", "mae"):
        certificate = bundles[name].certificate
        assert certificate is not None
        assert "the decoder of the pre-training" in {tensor.reason for tensor in certificate.unused}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "gelu_tanh", "layer_norm_eps": 1e-5},
        {"activation": "relu", "qkv_bias": False, "in_channels": 1},
        {"image_size": (16, 24), "dropout_rate": 0.1, "attention_dropout_rate": 0.2},
        {"position_for_prefix": False},
        {"activation": "quick_gelu"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@torch.inference_mode()
def test_what_is_written_loads_in_transformers_whole_and_answers_the_same(
    changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    bundle = native_bundle(replace(NATIVE, **changes), LABELS)
    write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "written", output_loading_info=True
    )

    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).logits, bundle.model(images))
    assert peer.config.id2label == dict(enumerate(LABELS))


@torch.inference_mode()
def test_an_encoder_without_a_head_is_written_as_one(transformers: ModuleType, tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, num_classes=0), ())
    written = write_layout(bundle, "huggingface", tmp_path / "written")

    peer, report = transformers.ViTModel.from_pretrained(
        tmp_path / "written", add_pooling_layer=False, output_loading_info=True
    )

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert "add_pooling_layer=False" in written.how_to_load
    images = pictures(bundle.config.model)
    assert_same_answers(peer(images).last_hidden_state, bundle.model.forward_features(images))


def test_the_files_alone_say_everything_of_a_plain_model(tmp_path: Path) -> None:
    preprocessing = Preprocessing((16, 16), "crop", 0.9, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    bundle = native_bundle(replace(NATIVE, activation="gelu_tanh", layer_norm_eps=1e-5), LABELS, preprocessing)
    write_layout(bundle, "huggingface", tmp_path / "written")
    (tmp_path / "written" / "vitrail.json").unlink()

    again = read(tmp_path / "written")

    assert again.config.model == bundle.config.model
    assert again.config.labels == LABELS
    # 16 / 0.9 is 17.8, and pictures are resized to whole pixels.
    assert again.config.preprocessing == replace(preprocessing, crop_fraction=16 / 17)
    tensors = again.model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in bundle.model.state_dict().items())


def test_written_weights_say_that_they_are_of_torch(tmp_path: Path) -> None:
    """transformers 4 (tried: 4.44.2) does not load a safetensors file whose header does not."""
    write_layout(native_bundle(NATIVE, LABELS), "huggingface", tmp_path / "written")
    with safe_open(tmp_path / "written" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_epsilon_of_transformers_is_kept_and_its_source_named(folder: Path) -> None:
    bundle = read(folder)

    assert bundle.config.model.layer_norm_eps == 1e-12
    assert bundle.certificate is not None
    by_name = {setting.name: setting for setting in bundle.certificate.settings}
    assert (by_name["layer_norm_eps"].value, by_name["layer_norm_eps"].source) == ("1e-12", "config.json")


def test_a_bare_file_gets_the_defaults_of_transformers_and_asks_for_heads(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"how many heads a model of width 32, .* has: give --num-heads"):
        read(bare)

    bundle = read(bare, num_heads=4, labels=("a", "b", "c"))

    assert bundle.config.model == read(folder).config.model
    assert bundle.config.labels == ("a", "b", "c")
    assert bundle.certificate is not None
    sources = {setting.name: setting.source for setting in bundle.certificate.settings}
    assert sources["layer_norm_eps"] == "transformers' default, no config.json being there"
    assert sources["num_heads"] == "the caller"


def test_a_position_table_that_is_no_square_asks_for_the_picture_size(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "vit.embeddings.position_embeddings"
    bare = tmp_path / "bare.safetensors"
    save_file({**tensors, name: torch.zeros(1, 7, 32)}, bare)
    with pytest.raises(WeightsError, match="no square; give --image-size"):
        read(bare, num_heads=4)

    assert read(bare, num_heads=4, image_size=(16, 24)).config.model.grid == (2, 3)
    with pytest.raises(WeightsError, match=r"24x24.*10 positions.*has 7 rows"):
        read(bare, num_heads=4, image_size=(24, 24))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 12, "num_hidden_layers 12, the tensors have 2;"),
        ("hidden_size", 64, "hidden_size 64, the tensors have 32;"),
        ("intermediate_size", 128, "intermediate_size 128, the tensors have 48;"),
        ("num_channels", 4, "num_channels 4, the tensors have 3;"),
        ("patch_size", 16, "patch_size 16, the tensors have 8x8;"),
        ("image_size", 224, "image_size 224x224, so 785 positions of patches of 8 pixels, the tensors have 5;"),
        ("qkv_bias", False, "qkv_bias False, the tensors have True;"),
        ("num_attention_heads", 5, "5 heads .config.json. do not divide the 32 features"),
        ("hidden_act", "silu", "hidden_act 'silu', which vitrail cannot compute"),
        ("image_size", [16], "image_size .16., which is not a number or .height, width."),
        ("layer_norm_eps", "1e-6", "layer_norm_eps '1e-6', which is not a number"),
        ("layer_norm_eps", 10**400, "which is not a number"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps nan, which is not a number"),
        ("layer_norm_eps", -1.0, "no model can be .*layer_norm_eps -1.0"),
        ("id2label", ["cat", "dog", "elk"], "must be objects"),
        ("model_type", "swin", "model_type 'swin', which vitrail does not read"),
        ("model_type", "beit", "model_type 'beit', which vitrail does not read"),
        ("model_type", "dinov2_with_registres", "Did you mean 'dinov2_with_registers'?"),
    ],
)
def test_a_config_that_contradicts_the_tensors_stops_with_both_values(
    field: str, value: object, message: str, folder: Path
) -> None:
    edit(folder, "config.json", **{field: value})
    with pytest.raises(WeightsError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("id2label", "label2id", "message"),
    [
        ({"0": "a", "1": "b", "2": "c"}, {"a": 1, "b": 0, "c": 2}, "label2id has 'a' at 1, id2label has it at 0"),
        ({"0": "a", "1": "b", "2": "c"}, {"a": 0, "b": 1, "d": 2}, "label2id has 'd' at 2, id2label has it nowhere"),
        ({"0": "a", "1": "b", "3": "c"}, None, "must name the classes 0 to 2 .* has index '3'"),
        ({"1": "a", "2": "b", "3": "c"}, None, "has index '3'"),
        ({"0": "a", "1": "b"}, None, "has only 2 of them"),
        ({"0": "a", "1": "b", "2": "c", "3": "d"}, None, "has index '3'"),
    ],
)
def test_labels_in_another_order_than_the_head_stop(
    id2label: dict[str, str], label2id: dict[str, int] | None, message: str, folder: Path
) -> None:
    edit(folder, "config.json", id2label=id2label, label2id=label2id)
    with pytest.raises(WeightsError, match=message):
        read(folder)
    assert read(folder, labels=("x", "y", "z")).config.labels == ("x", "y", "z")


def test_labels_that_occur_twice_stay_apart_and_placeholders_count_as_none(folder: Path) -> None:
    edit(folder, "config.json", id2label={"0": "crane", "1": "cat", "2": "crane"}, label2id={"crane": 2, "cat": 1})
    assert read(folder).config.labels == ("crane (0)", "cat", "crane (2)")
    placeholders = {str(index): f"LABEL_{index}" for index in range(3)}
    edit(folder, "config.json", id2label=placeholders, label2id={name: int(i) for i, name in placeholders.items()})
    assert read(folder).config.labels == ("class 0", "class 1", "class 2")


def test_a_tensor_that_has_no_place_stops_the_load(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "vit.encoder.layer.0.lambda_1": torch.zeros(32)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="1 tensor is left over: 'vit.encoder.layer.0.lambda_1'".replace(".", r"\.")):
        read(folder)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_processor_type": "ViTFeatureExtractor", "size": 16}, Preprocessing((16, 16), "squash")),
        ({"image_processor_type": "ViTImageProcessorFast"}, Preprocessing((16, 16), "squash")),
        ({"size": {"height": 16, "width": 16}, "resample": 3}, Preprocessing((16, 16), "squash", 1.0, "bicubic")),
        (
            {"size": {"height": 16, "width": 16}, "do_normalize": False},
            Preprocessing((16, 16), "squash", mean=(0.0,) * 3, std=(1.0,) * 3),
        ),
        (
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.5, 0.5, 0.5],
            },
            Preprocessing((16, 16), "crop", 0.875, "bicubic", (0.1, 0.2, 0.3)),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 18, "crop_size": 16, "resample": 2},
            Preprocessing((16, 16), "crop", 16 / 18),
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 16, "crop_size": 16, "image_mean": 0.5,
             "image_std": 0.5},
            Preprocessing((16, 16), "crop", 1.0, "bicubic"),
        ),
    ],
)  # fmt: skip
def test_preprocessor_config_becomes_preprocessing(
    fields: dict[str, Any], expected: Preprocessing, folder: Path
) -> None:
    assert read(edit(folder, "preprocessor_config.json", **fields)).config.preprocessing == expected


def test_without_preprocessor_config_pictures_are_squashed_as_the_class_does(folder: Path) -> None:
    assert read(folder).config.preprocessing == Preprocessing((16, 16), "squash")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "is of ConvNextImageProcessor"),
        ({"resample": 1}, "resample 1; vitrail resizes"),
        ({"rescale_factor": 0.5}, "rescale_factor 0.5"),
        ({"do_rescale": False}, "do_rescale False"),
        ({"size": {"longest_edge": 16}}, "size {'longest_edge': 16}"),
        ({"size": {"shortest_edge": 16}}, "without do_center_crop"),
        ({"do_center_crop": True, "size": 8, "crop_size": 16}, "crop_size 16; vitrail cuts squares"),
        ({"do_center_crop": True, "size": {"shortest_edge": 20}, "crop_size": {"height": 8, "width": 16}}, "squares"),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 16}, "do_resize false and do_center_crop true"),
        ({"image_mean": [0.1, 0.2]}, r"image_mean \[0.1, 0.2\] for pictures of 3 channels"),
        ({"size": "big"}, "size big; vitrail reads a number"),
        ({"size": {"height": "a", "width": "b"}}, "cannot be read"),
        ({"resample": [3]}, "resample .3.; vitrail resizes"),
        ({"rescale_factor": "1/255"}, "cannot be read"),
        ({"image_std": [0.0, 0.0, 0.0]}, "not positive"),
    ],
)
def test_pictures_that_cannot_be_prepared_as_the_file_says_stop(
    fields: dict[str, Any], message: str, folder: Path
) -> None:
    edit(folder, "preprocessor_config.json", **{"image_processor_type": "ViTImageProcessor", **fields})
    with pytest.raises(WeightsError, match=message):
        read(folder)


def test_what_is_not_exactly_as_the_file_says_is_told(folder: Path) -> None:
    edit(folder, "preprocessor_config.json", image_processor_type="DeiTImageProcessor", size=256, crop_size=224)
    certificate = read(folder).certificate
    assert certificate is not None
    assert any("squashes pictures to 256x256" in sentence for sentence in certificate.surgery)
    assert any("224x224 pixels; the model, and so its pictures, are of 16x16" in s for s in certificate.surgery)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((32, 32), "squash", 1.0, "bilinear"),
        Preprocessing((32, 32), "crop", 0.8, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
    ids=["squash", "crop"],
)
def test_the_written_preprocessor_makes_the_same_pixels(
    preprocessing: Preprocessing, transformers: ModuleType, tmp_path: Path
) -> None:
    write_layout(
        native_bundle(replace(NATIVE, image_size=(32, 32)), LABELS, preprocessing), "huggingface", tmp_path / "w"
    )
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "picture.png")

    peer = transformers.AutoImageProcessor.from_pretrained(tmp_path / "w")
    expected = peer(picture, return_tensors="pt")["pixel_values"][0]

    transform = EvaluationTransform(preprocessing)
    opened = open_picture((tmp_path / "picture.png").read_bytes(), "picture.png")
    pixels = torch.from_numpy(transform(opened, np.random.default_rng(0)))[None]
    found = normalize(pixels, preprocessing)[0]
    # Two resizers, both in whole levels of 255.
    assert (found - expected).abs().max() <= 3 / 255 / min(preprocessing.std)


@given(side=st.integers(1, 2000), extra=st.integers(0, 2000))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_crop_fraction_resizes_to_exactly_the_size_said(side: int, extra: int) -> None:
    fraction = crop_fraction(side, side + extra)
    assert 0 < fraction <= 1
    assert math.floor(side / fraction) == side + extra


@pytest.mark.parametrize(("side", "resized"), [(224, 256), (384, 384), (518, 592), (224, 242), (384, 438)])
def test_crop_fraction_of_published_sizes(side: int, resized: int) -> None:
    assert math.floor(side / crop_fraction(side, resized)) == resized


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "gap"},
        {"pooling": "gap", "class_token": False},
        {"pre_logits_size": 16},
        {"position_embedding": "sincos_2d_mae"},
        {"position_placement": "every_layer"},
        {"block_style": "post_norm"},
        {"patch_norm": True},
        {"patch_bias": False},
        {"input_norm": True},
        {"stem": "conv", "stem_widths": (8,)},
        {"head_dim": 4},
        {"num_register_tokens": 2, "distillation_token": True},
    ],
    ids="-".join,
)
def test_a_model_that_transformers_cannot_say_is_refused_by_field(changes: dict[str, Any], tmp_path: Path) -> None:
    field = next(iter(changes)) if "class_token" not in changes else "class_token"
    with pytest.raises(WeightsError, match=field):
        write_layout(native_bundle(replace(NATIVE, **changes), LABELS), "huggingface", tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_a_cut_of_a_rectangle_is_refused(tmp_path: Path) -> None:
    bundle = native_bundle(replace(NATIVE, image_size=(16, 24)), LABELS, Preprocessing((16, 24), "crop", 0.9))
    with pytest.raises(WeightsError, match="resize 'crop' of a rectangle"):
        write_layout(bundle, "huggingface", tmp_path / "written")
