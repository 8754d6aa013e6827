"""Weights by any name, and what a model that was read elsewhere keeps when it is saved here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitrail
from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import WRITERS
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.mapping import from_native
from vitrail.weights.bundle import BundleConfig, save_bundle
from vitrail.weights.checkpoint import Choices
from vitrail.weights.files import write_tensors
from vitrail.weights.load import load, names_a_model, pinned

CONFIG = ViTConfig(image_size=(16, 16), patch_size=8, width=64, depth=1, num_heads=1, mlp_size=8, num_classes=2)
PREPROCESSING = Preprocessing(image_size=(16, 16))


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    model = VisionTransformer(CONFIG, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight)  # type: ignore[arg-type]
    entries = WRITERS["timm"](Model(CONFIG, PREPROCESSING, ("cat", "dog"))).entries
    write_tensors(tmp_path / "cats.safetensors", from_native(model.state_dict(), entries))
    return tmp_path / "cats.safetensors"


def test_what_was_read_elsewhere_is_saved_as_a_bundle_that_answers_the_same(timm_file: Path, tmp_path: Path) -> None:
    read = vitrail.load(timm_file, labels=["cat", "dog"])
    read.save_pretrained(tmp_path / "saved")
    again = vitrail.load(str(tmp_path / "saved"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.model(images), read.model(images))
    assert again.config.labels == ("cat", "dog")
    assert again.config.preprocessing == read.config.preprocessing
    assert again.config.resampling == read.config.resampling == "bicubic_antialias"
    assert again.config.provenance["origin"]["family"] == "timm"
    assert timm_file.name in (tmp_path / "saved" / "README.md").read_text()


def test_a_bundle_may_be_saved_over_a_bundle_but_over_nothing_else(timm_file: Path, tmp_path: Path) -> None:
    read = vitrail.load(timm_file)
    read.save_pretrained(tmp_path / "saved")
    vitrail.load(tmp_path / "saved").save_pretrained(
        tmp_path / "saved"
    )  # over the very file its tensors are mapped from
    assert torch.equal(vitrail.load(tmp_path / "saved").model.head.weight, read.model.head.weight)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"dear")
    with pytest.raises(WeightsError, match="no bundle; it is not overwritten"):
        read.save_pretrained(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"dear"


def test_what_lacks_a_part_of_a_bundle_gets_the_bundles_own_error(tmp_path: Path) -> None:
    config = BundleConfig(model=CONFIG, labels=("cat", "dog"), preprocessing=PREPROCESSING)
    save_bundle(tmp_path / "bundle", VisionTransformer(CONFIG), config)
    (tmp_path / "bundle" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json: cannot be read"):
        vitrail.load(tmp_path / "bundle")


def test_a_bundle_takes_no_second_opinion(tmp_path: Path) -> None:
    config = BundleConfig(model=CONFIG, labels=("cat", "dog"), preprocessing=PREPROCESSING)
    save_bundle(tmp_path / "bundle", VisionTransformer(CONFIG), config)
    with pytest.raises(WeightsError, match="says everything itself"):
        vitrail.load(tmp_path / "bundle", num_heads=2)


@pytest.mark.parametrize("spec", ["vit_small_patch16_224.augreg_in12k", "a b/c d", "no such thing"])
def test_a_name_of_nothing_is_refused_with_all_that_could_be_meant(spec: str) -> None:
    with pytest.raises(WeightsError, match="no such file or folder, and no name of the catalog"):
        vitrail.load(spec)


def test_a_mistyped_name_of_the_catalog_is_recognised() -> None:
    with pytest.raises(WeightsError, match=r"Did you mean 'vit_small_patch16_224\.augreg_in21k'"):
        vitrail.load("vit_smal_patch16_224.augreg_in21k")


def test_an_unknown_family_is_refused_with_the_nearest_name(timm_file: Path) -> None:
    with pytest.raises(WeightsError, match="Did you mean 'timm'"):
        load(timm_file, choices=Choices(family="tim"))


def test_a_path_is_pinned_so_that_it_is_found_from_any_folder(timm_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(timm_file.parent)
    assert pinned(timm_file.name, vitrail.load(timm_file.name)) == str(timm_file)


def test_a_repository_is_pinned_to_its_commit(timm_file: Path) -> None:
    read = vitrail.load(timm_file)
    came = {"origin": {"weights": "hf-hub:timm/cats@0123abc"}}
    bundle = replace(read, config=replace(read.config, provenance=came))
    assert pinned("timm/cats", bundle) == "hf-hub:timm/cats@0123abc"


def test_labels_that_do_not_fit_the_head_are_refused(timm_file: Path) -> None:
    with pytest.raises(WeightsError, match="3"):
        vitrail.load(timm_file, labels=["a", "b", "c"])


def test_a_mistyped_path_is_not_looked_for_on_the_network(timm_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file or folder\. Did you mean 'cats\.safetensors'"):
        vitrail.load(f"{timm_file.parent}/cast.safetensors")


def test_what_names_a_model_is_told_from_pictures(timm_file: Path, tmp_path: Path) -> None:
    vitrail.load(timm_file, labels=["cat", "dog"]).save_pretrained(tmp_path / "run" / "bundle")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"")
    for model in (timm_file, timm_file.parent, tmp_path / "run", tmp_path / "run" / "bundle"):
        assert names_a_model(str(model)), model
    assert names_a_model("hf-hub:timm/vit_base_patch16_224.augreg_in21k")
    for other in (photos, photos / "cat.jpg", tmp_path / "missing.safetensors"):
        assert not names_a_model(str(other)), other
