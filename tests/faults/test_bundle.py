"""A bundle that is not as it was saved is refused by name, or gives exactly what was saved."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights import bundle as bundles
from vitrail.weights.bundle import Bundle, BundleConfig, load_bundle, save_bundle
from vitrail.weights.files import read_tensors, write_tensors

VIT = ViTConfig(image_size=(8, 8), patch_size=4, num_classes=3, width=8, depth=1, num_heads=2, mlp_size=8)
CONFIG = BundleConfig(VIT, ("cat", "dog", "fox"), Preprocessing(image_size=(8, 8)))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = VisionTransformer(VIT, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("pristine") / "bundle"
    save_bundle(folder, model, CONFIG, [("a", pixels[0]), ("b", pixels[1])])
    return folder


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def sign(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json as someone would who also knows how to mend its checksum."""
    values = json.loads((folder / "config.json").read_text())
    values.pop("config_sha256")
    change(values)
    values["config_sha256"] = bundles._sha256_of_values(values)
    (folder / "config.json").write_text(json.dumps(values))


def resign_files(folder: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["files"] = {name: bundles.sha256_of(folder / name) for name in values["files"]}

    sign(folder, change)


def same(one: Bundle, other: Bundle) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return one.config == other.config and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "samples.json", "samples/1.png"])
def test_a_flipped_bit_anywhere_is_refused_or_harmless(bundle: Path, pristine: Path, name: str) -> None:
    expected, path = load_bundle(pristine), bundle / name
    whole = path.read_bytes()
    draw = random.Random(name)
    for place in draw.sample(range(len(whole)), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        found, refusal = None, None
        try:
            found = load_bundle(bundle)
        except WeightsError as error:
            refusal = str(error)
        if found is not None:  # white space in JSON means nothing
            assert name == "config.json"
            assert same(found, expected)
        else:
            assert str(bundle) in str(refusal)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "samples.json", "samples/1.png"])
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_bundle(bundle)


def test_the_card_may_be_edited(bundle: Path) -> None:
    (bundle / "README.md").write_text("mine")
    load_bundle(bundle)


def test_another_number_of_labels_is_refused(bundle: Path) -> None:
    sign(bundle, lambda values: values.update(labels=["cat", "dog"]))
    with pytest.raises(WeightsError, match=r"config\.json: 2 labels for a head of 3 classes"):
        load_bundle(bundle)


def test_a_label_changed_by_hand_is_noticed(bundle: Path) -> None:
    path = bundle / "config.json"
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    with pytest.raises(WeightsError, match=r"config\.json: changed since the bundle was saved"):
        load_bundle(bundle)


def test_weights_of_other_shapes_are_refused_by_tensor(bundle: Path) -> None:
    sign(bundle, lambda values: values["model"].update(mlp_size=16))
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: 'blocks\.0\.mlp\.fc1\.weight' is .*\(8, 8\).*\(16, 8\)"
    ):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.bias"), r"the tensor 'norm\.bias' is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has no tensor 'extra'"),
        (lambda tensors: tensors.update({"norm.bias": torch.zeros(8).half()}), r"'norm\.bias' is torch\.float16"),
    ],
)
def test_tensors_missing_too_many_or_of_another_kind_are_named(
    bundle: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(bundle / "model.safetensors").items()}
    change(tensors)
    write_tensors(bundle / "model.safetensors", tensors)
    resign_files(bundle)
    with pytest.raises(WeightsError, match=message):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(lables=[]), "unknown field 'lables'.*'labels'"),
        (lambda values: values["model"].update(widht=8), "model: unknown field 'widht'.*'width'"),
        (lambda values: values["model"].update(width=7), "width 7"),
        (lambda values: values["preprocessing"].update(std=[0.0, 0.5, 0.5]), "std"),
        (lambda values: values.update(format="vitrail-bundle-9"), "vitrail-bundle-9"),
        (lambda values: values.pop("labels"), "'labels' is missing"),
        (lambda values: values["model"].update(depth=True), "depth"),
        (lambda values: values.update(files={}), "does not list"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_field(
    bundle: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    sign(bundle, change)
    with pytest.raises(WeightsError, match=rf"config\.json: .*{message}"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["preprocessing"].update(mean=[0.2, 0.5, 0.5]),
        lambda values: values["model"].update(activation="relu"),
        lambda values: values["model"].update(layer_norm_eps=0.1),
    ],
)
def test_answers_that_no_longer_agree_are_noticed(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    sign(bundle, change)
    with pytest.raises(WeightsError, match=r"samples/1\.png: the model no longer gives the logits"):
        load_bundle(bundle)


def test_swapped_weights_are_noticed_even_with_mended_checksums(bundle: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(bundle / "model.safetensors").items()}
    tensors["head.weight"] = tensors["head.weight"].flip(0)
    write_tensors(bundle / "model.safetensors", tensors)
    resign_files(bundle)
    with pytest.raises(WeightsError, match="no longer gives the logits"):
        load_bundle(bundle)


def test_a_bundle_reads_nothing_outside_its_folder(bundle: Path) -> None:
    (bundle.parent / "secret.png").write_bytes((bundle / "samples/1.png").read_bytes())
    record = json.loads((bundle / "samples.json").read_text())
    record["samples"][0]["file"] = "../secret.png"
    (bundle / "samples.json").write_text(json.dumps(record))
    resign_files(bundle)
    with pytest.raises(WeightsError, match=r"names '\.\./secret\.png'"):
        load_bundle(bundle)
    sign(bundle, lambda values: values["files"].update({"../secret.png": "0"}))
    with pytest.raises(WeightsError, match="outside the bundle"):
        load_bundle(bundle)


class Sentinel:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


@pytest.mark.parametrize("name", ["weights.pth", "model.pkl", "pytorch_model.bin"])
def test_a_pickle_offered_as_weights_is_refused_unread(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / name
    path.write_bytes(pickle.dumps(Sentinel(sentinel)))
    with pytest.raises(WeightsError, match=rf"{name}: a Python pickle, refused unread"):
        load_bundle(path)
    with pytest.raises(WeightsError, match=rf"{name} may run code"):
        load_bundle(tmp_path / "folder")
    assert not sentinel.exists()


def test_a_pickle_in_the_place_of_the_weights_is_refused_unread(bundle: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    (bundle / "model.safetensors").write_bytes(pickle.dumps(Sentinel(sentinel)))
    with pytest.raises(WeightsError, match=r"model\.safetensors: changed"):
        load_bundle(bundle)
    resign_files(bundle)
    for verify in (True, False):
        with pytest.raises(WeightsError, match=r"model\.safetensors: a Python pickle, refused unread"):
            load_bundle(bundle, verify=verify)
    assert not sentinel.exists()


def test_what_is_no_bundle_is_told_apart(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="give the folder of a bundle"):
        load_bundle(bundle / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"not a bundle, it has no model\.safetensors"):
        load_bundle(tmp_path / "empty")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"no bundle yet; finish it with: vitrail fit --resume"):
        load_bundle(tmp_path / "run")
