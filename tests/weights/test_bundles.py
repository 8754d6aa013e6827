from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import BundleConfig, load_bundle, read_bundle_config, save_bundle
from vitrail.weights.card import model_card

VIT = ViTConfig(image_size=(8, 8), patch_size=4, num_classes=3, width=16, depth=2, num_heads=2, mlp_size=32)
CONFIG = BundleConfig(
    model=VIT,
    labels=("cat", "dög\n", "花"),
    preprocessing=Preprocessing(image_size=(8, 8), resize="crop", crop_fraction=0.875),
    name="pets",
    provenance={"data": "pets", "fingerprint": "ab12", "num_train": 12, "versions": {"torch": "2"}},
    metrics={"test_accuracy": 0.913, "test_accuracy_interval": [0.9, 0.92], "support": {0: 4, 10: 5, 2: 3}},
)


def trained_model(config: ViTConfig = VIT) -> VisionTransformer:
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    return model


def samples(count: int = 3) -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [(f"cat/{i} ä.jpg", draw.integers(0, 256, (30, 20 + i, 3), dtype=np.uint8)) for i in range(count)]


def test_a_bundle_gives_the_answers_of_the_model_it_was_made_from(tmp_path: Path) -> None:
    model = trained_model().eval()
    written = save_bundle(tmp_path / "bundle", model, CONFIG, samples())
    bundle = load_bundle(tmp_path / "bundle")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(bundle.model(images), model(images))
    assert not bundle.model.training
    assert bundle.config == written
    assert bundle.config.labels == CONFIG.labels
    assert bundle.config.model == VIT
    assert bundle.config.preprocessing == CONFIG.preprocessing
    assert bundle.config.provenance == CONFIG.provenance
    assert read_bundle_config(tmp_path / "bundle") == bundle.config


def test_everything_a_user_carries_away_is_in_the_folder(tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", trained_model(), CONFIG, samples())
    files = {path.relative_to(tmp_path / "bundle").as_posix() for path in (tmp_path / "bundle").rglob("*.*")}
    pictures = {f"samples/{number}.png" for number in (1, 2, 3)}
    assert files == {"model.safetensors", "config.json", "README.md", "samples.json", *pictures}
    record = json.loads((tmp_path / "bundle" / "samples.json").read_text())
    assert [sample["name"] for sample in record["samples"]] == [name for name, _ in samples()]
    assert all(len(sample["logits"]) == 3 for sample in record["samples"])


def test_the_run_folder_around_a_bundle_will_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # the run's own
    save_bundle(tmp_path / "bundle", trained_model(), CONFIG)
    assert load_bundle(tmp_path).path == tmp_path / "bundle"
    assert load_bundle(str(tmp_path)).config.labels == CONFIG.labels


@pytest.mark.parametrize(
    "changes",
    [
        {"position_embedding": "sincos_2d_mae"},
        {"position_embedding": "learned_2d", "pooling": "map", "num_register_tokens": 2},
        {"stem": "conv", "stem_widths": (8, 16), "pooling": "gap", "class_token": False},
        {"distillation_token": True},
        {"pre_logits_size": 8, "layer_scale_init": 0.1},
    ],
)
def test_every_kind_of_model_comes_back(tmp_path: Path, changes: dict[str, object]) -> None:
    config = replace(VIT, **changes)  # type: ignore[arg-type]
    model = trained_model(config).eval()
    save_bundle(tmp_path / "bundle", model, replace(CONFIG, model=config), samples())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(load_bundle(tmp_path / "bundle").model(images), model(images))


def test_grey_and_encoded_samples_are_kept(tmp_path: Path) -> None:
    grey = replace(VIT, in_channels=1)
    config = replace(CONFIG, model=grey, preprocessing=Preprocessing(image_size=(8, 8), mean=(0.5,), std=(0.5,)))
    save_bundle(tmp_path / "first", trained_model(grey), config, [("a", np.zeros((9, 12), np.uint8))])
    png = (tmp_path / "first" / "samples" / "1.png").read_bytes()
    save_bundle(tmp_path / "second", trained_model(grey), config, [("b", png)])
    load_bundle(tmp_path / "second")


def test_large_samples_are_shrunk(tmp_path: Path) -> None:
    from PIL import Image

    big = np.zeros((600, 400, 3), np.uint8)
    save_bundle(tmp_path / "bundle", trained_model(), CONFIG, [("big", big)])
    with Image.open(tmp_path / "bundle" / "samples" / "1.png") as image:
        assert image.size == (16, 24)


def test_a_bundle_may_be_saved_again_in_its_place(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_bundle(tmp_path / "bundle", trained_model(), replace(CONFIG, name=name), samples(1))
    assert load_bundle(tmp_path).config.name == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", trained_model(), CONFIG)
    model = load_bundle(tmp_path).model
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        model.head.weight.add_(1)
    load_bundle(tmp_path)  # the file did not change with it


def test_loading_draws_no_random_numbers_and_keeps_no_default(tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle", trained_model(), CONFIG, samples())
    before = torch.get_rng_state()
    load_bundle(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_are_not_finite_and_labels_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    model = trained_model()
    with pytest.raises(WeightsError, match="2 labels for a head of 3 classes"):
        save_bundle(tmp_path / "bundle", model, replace(CONFIG, labels=("a", "b")))
    with pytest.raises(WeightsError, match="'a' is there twice"):
        save_bundle(tmp_path / "bundle", model, replace(CONFIG, labels=("a", "b", "a")))
    with torch.no_grad():
        model.norm.bias[0] = float("nan")
    with pytest.raises(WeightsError, match=r"'norm\.bias'.*not finite"):
        save_bundle(tmp_path / "bundle", model, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_people_what_they_need(tmp_path: Path) -> None:
    card = model_card(CONFIG)
    told = ("# pets", "`cat`", "`dög`", "91.3%", "vitrail predict", "ab12", "Licence", "resized to 9 pixels", "RGB")
    for expected in told:
        assert expected in card
    # Nothing in a label or a name breaks out of its place.
    nasty = replace(CONFIG, name="a\n# b", labels=("`x`", "| y |", "z"))
    assert "\n# b" not in model_card(nasty)
    assert "``" not in model_card(nasty).replace("```", "")


def test_a_card_of_many_classes_stays_readable() -> None:
    many = replace(CONFIG, model=replace(VIT, num_classes=1000), labels=tuple(f"class {i}" for i in range(1000)))
    assert "and 800 more" in model_card(many)
