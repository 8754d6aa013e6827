"""A picture's answer is the same bits, whichever pictures it is asked with, and those of `predict`."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.cli.main import main
from vitrail.data.config import Preprocessing
from vitrail.models.build import build_model
from vitrail.models.variants import get_config
from vitrail.tasks.predict import PredictConfig, predict
from vitrail.tasks.predictor import NOT_FINITE, Prediction, Predictor, predictions_of
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle, BundleConfig, load_bundle, made_up_pictures, save_bundle

SMALL = {"width": 96, "depth": 2, "num_heads": 3, "num_classes": 7}
MODELS = {
    "16 patches": {"image_size": (64, 64), "patch_size": 16, **SMALL},
    "4 patches": {"image_size": (32, 32), "patch_size": 16, **SMALL},
    "197 tokens, a long sum": {"image_size": (224, 224), "patch_size": 16, **SMALL, "mlp_size": 1536},
    "registers": {"image_size": (32, 32), "patch_size": 8, "num_register_tokens": 3, **SMALL},
}


@pytest.fixture(params=list(MODELS))
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    config = replace(get_config("ViT-Ti/16"), **MODELS[request.param])
    model = build_model(config, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.head.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    preprocessing = Preprocessing(image_size=config.image_size)
    labels = tuple("abcdefg")
    save_bundle(
        tmp_path / "bundle", model, BundleConfig(config, labels, preprocessing), made_up_pictures(preprocessing)
    )
    return load_bundle(tmp_path / "bundle")


def test_an_answer_does_not_depend_on_its_company(bundle: Bundle) -> None:
    predictor = Predictor(bundle)
    height, width = bundle.config.preprocessing.image_size
    images = np.random.default_rng(0).integers(0, 256, (11, 3, height, width), dtype=np.uint8)
    together, features = predictor.ask(images, with_features=True)
    assert features is not None
    assert len(np.unique(together, axis=0)) == 11
    for size in (1, 2, 3, 5):
        parts = [images[start : start + size] for start in range(0, 11, size)]
        assert np.array_equal(np.concatenate([predictor.ask(part)[0] for part in parts]), together)
        pairs = [predictor.ask(part, with_features=True) for part in parts]
        assert np.array_equal(np.concatenate([pair[0] for pair in pairs]), together)
        assert np.array_equal(np.concatenate([pair[1] for pair in pairs if pair[1] is not None]), features)
    assert predictor.ask(images[:0])[0].shape == (0, 7)


def test_it_says_what_predict_says_bit_for_bit(bundle: Bundle, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 40, 50, 3), dtype=np.uint8)
    files = [tmp_path / f"{number}.jpg" for number in range(9)]
    for file, pixels in zip(files, noise, strict=True):
        Image.fromarray(pixels).save(file)
    names = tuple(map(str, files))
    with Events() as events:
        said = predict(PredictConfig(str(bundle.path), names, top_k=7), events)
        alone = [predict(PredictConfig(str(bundle.path), (name,), top_k=7), events)[0] for name in names[:2]]
    assert list(said[:2]) == alone
    predictor = Predictor(bundle)
    for file, prediction in zip(files, said, strict=True):
        logits, _ = predictor.ask(predictor.read(file.read_bytes(), str(file))[None])
        assert predictor.predict([str(file)], logits, 7) == [prediction]


def test_the_logits_are_the_models_own(bundle: Bundle) -> None:
    predictor = Predictor(bundle)
    height, width = bundle.config.preprocessing.image_size
    images = np.random.default_rng(2).integers(0, 256, (4, 3, height, width), dtype=np.uint8)
    with torch.no_grad():
        own = bundle.model(predictor.normalized(images)).numpy()
    np.testing.assert_allclose(predictor.ask(images)[0], own, rtol=1e-4, atol=1e-4)


def test_what_is_no_number_is_no_answer() -> None:
    rows = np.array([[0.25, 0.75], [np.nan, np.nan]])
    good, bad = predictions_of(["a.png", "b.png"], rows, ("cat", "dog"), 1)
    assert good == Prediction("a.png", "dog", 0.75, (("dog", 0.75),))
    assert bad == Prediction("b.png", error=f"b.png: {NOT_FINITE}")


def test_a_table_of_broken_pictures_alone_keeps_its_columns(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert main(["predict", str(bundle.path), str(broken), "--csv"]) == 1
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert row.pop("error").startswith(f"{broken}: ")
    assert row == {"file": str(broken), "label": "", "probability": ""}
