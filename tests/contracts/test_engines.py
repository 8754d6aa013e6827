"""What every engine owes, in every precision it names: the model's answers, for any batch, and a description."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "engines"))  # for its small models
from small_models import AXIAL, bundle_of, pictures, vit_bundle

from vitrail.data.batches import normalize
from vitrail.engines.config import EngineName, InferenceConfig, Precision
from vitrail.engines.prepare import prepare
from vitrail.engines.registry import ENGINES, installed_engines
from vitrail.errors import ConfigError
from vitrail.models.resnet_config import ResNetConfig

EVERY = [(name, precision) for name, engine in ENGINES.items() for precision in engine.precisions]
TOLERANCES = {"float32": 1e-5, "bfloat16": 0.04, "int8": 0.5}  # of the largest logit, for a network of width 32
MODELS: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean of patches": {"pooling": "gap", "num_register_tokens": 2, "stem": "conv", "stem_widths": (6, 8)},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))


def require(name: EngineName) -> None:
    obstacle = ENGINES[name].missing()
    if obstacle is not None:
        pytest.skip(obstacle)


def config_of(name: EngineName, precision: Precision) -> InferenceConfig:
    # That torch compiles to the same answers is tested in tests/engines.
    return InferenceConfig(engine=name, precision=precision, batch_size=3, compile=False if name == "torch" else None)


@pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))
@pytest.mark.parametrize(("name", "precision"), EVERY)
def test_it_answers_as_the_model_whatever_the_batch(
    name: EngineName, precision: Precision, changes: dict[str, Any]
) -> None:
    require(name)
    bundle = vit_bundle(**changes)
    images = pictures(bundle, 7)
    with torch.inference_mode():
        own = bundle.model(normalize(images, bundle.config.preprocessing))
    answer = prepare(bundle, config_of(name, precision), calibration=pictures(bundle, 32, seed=1))
    assert (answer.description.engine, answer.description.precision) == (name, precision)
    whole = answer(images)
    assert whole.dtype == torch.float32
    tolerance = TOLERANCES[precision] * own.abs().max()
    assert (whole - own).abs().max() < tolerance
    assert torch.cosine_similarity(whole, own).mean() > 0.95
    for size in (1, 2, 4):
        parts = torch.cat([answer(part) for part in images.split(size)])
        assert (parts - whole).abs().max() < tolerance, size
    assert answer(images[:0]).shape == (0, 7)
    with pytest.raises(ValueError, match="not normalised"):
        answer(images.float())


@pytest.mark.parametrize("name", list(ENGINES))
def test_other_models_run_as_they_are(name: EngineName) -> None:
    require(name)
    for bundle in (vit_bundle(**AXIAL), bundle_of(ResNetConfig(image_size=(32, 32), num_classes=5, depths=(1, 1)))):
        images = pictures(bundle, 2)
        with torch.inference_mode():
            own = bundle.model(normalize(images, bundle.config.preprocessing))
        answer = prepare(bundle, config_of(name, "float32"))
        assert answer.description.way == "plain"
        assert (answer(images) - own).abs().max() < 1e-4 * own.abs().max()


def test_torch_is_always_there() -> None:
    assert "torch" in installed_engines()


@pytest.mark.parametrize("name", list(ENGINES))
def test_an_engine_that_is_not_installed_says_what_to_install(
    name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "torch":
        pytest.skip("torch is what the package stands on")
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=rf"pip install 'vitrail\[{name}\]'"):
        prepare(vit_bundle(), InferenceConfig(engine=name))
