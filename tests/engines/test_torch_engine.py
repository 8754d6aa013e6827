from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import AXIAL, RESNET, bundle_of, pictures, vit_bundle

import vitrail
from vitrail.data.batches import normalize
from vitrail.engines import trials
from vitrail.engines.config import InferenceConfig
from vitrail.engines.prepare import prepare
from vitrail.engines.quantization import has_int8
from vitrail.errors import ConfigError
from vitrail.models.timm_config import TimmConfig
from vitrail.weights.bundle import Bundle, save_bundle


def own_answers(bundle: Bundle, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = bundle.model(normalize(images, bundle.config.preprocessing))
    return answer


PLAIN: list[Any] = [RESNET, TimmConfig("resnet18", image_size=(32, 32), num_classes=4)]


@pytest.mark.parametrize("config", PLAIN, ids=lambda config: config.family)
def test_other_models_take_the_plain_path_and_say_so(config: Any) -> None:
    bundle = bundle_of(config)
    images = pictures(bundle, 3)
    answer = prepare(bundle)
    assert str(answer.description) == "torch, float32, plain, not compiled"
    torch.testing.assert_close(answer(images), own_answers(bundle, images))
    features = prepare(bundle, InferenceConfig(answer="features"))(images)
    assert features.ndim == 2
    assert features.shape[1] > images.shape[1]
    with pytest.raises(ConfigError, match="int8 is for Vision Transformers with global attention"):
        prepare(bundle, InferenceConfig(precision="int8"), calibration=images)


def test_axial_attention_takes_the_plain_path() -> None:
    bundle = vit_bundle(**AXIAL)
    images = pictures(bundle, 2)
    answer = prepare(bundle, InferenceConfig(precision="bfloat16"))
    assert answer.description.way == "plain"
    assert torch.cosine_similarity(answer(images), own_answers(bundle, images)).min() > 0.999


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_compiled_or_not_any_batch_has_the_same_answers(
    precision: Any, compiler_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding: products of other shapes sum in another order."""
    if precision == "int8" and not has_int8():
        pytest.skip("this processor has no exact 8-bit products")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiler_cache))
    bundle = vit_bundle()
    images = pictures(bundle, 7)
    tolerance = {"float32": 3e-6, "bfloat16": 0.03, "int8": 0.12}[precision]
    own = own_answers(bundle, images)
    # In float32 the compiler has nothing to do that it has not in bfloat16.
    for compile in (False,) if precision == "float32" else (False, True):
        config = InferenceConfig(precision=precision, compile=compile, batch_size=3)
        answer = prepare(bundle, config, calibration=pictures(bundle, 32, seed=1))
        assert answer.description.is_compiled == compile
        whole = answer(images)
        assert whole.dtype == torch.float32
        assert (whole - own).abs().max() < tolerance * own.abs().max()
        for size in (1, 2, 5):
            parts = torch.cat([answer(part) for part in images.split(size)])
            assert (parts - whole).abs().max() < tolerance * own.abs().max(), size
        assert answer(images[:0]).shape == (0, 7)


def test_few_pictures_do_not_pay_for_compiling_and_that_is_said() -> None:
    answer = prepare(vit_bundle(), InferenceConfig(pictures=1))
    assert not answer.description.is_compiled
    assert "compiling would take 20 s and save 0" in str(answer.description)


def test_what_compiling_took_and_saved_is_remembered(compiler_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiler_cache))
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(trials, "keep", lambda question, facts, answer: kept.append(answer))
    prepare(vit_bundle(), InferenceConfig(batch_size=3))
    (answer,) = kept
    assert answer["seconds"] > 0
    assert 0 <= answer["gain"] < 1


def test_no_compiler_is_said_and_is_an_error_where_compiling_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("PATH", "/nowhere")
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    answer = prepare(vit_bundle())
    assert "torch cannot compile here" in str(answer.description)
    with pytest.raises(ConfigError, match="torch cannot compile here"):
        prepare(vit_bundle(), InferenceConfig(compile=True))


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 16, 24), torch.zeros(2, 3, 24, 16, dtype=torch.uint8)])
def test_pictures_of_another_kind_are_refused(images: torch.Tensor) -> None:
    answer = prepare(vit_bundle(), InferenceConfig(compile=False))
    with pytest.raises(ValueError, match="not normalised"):
        answer(images)


def test_the_public_face_takes_a_bundle_by_its_path(tmp_path: Path) -> None:
    bundle = vit_bundle()
    save_bundle(tmp_path / "bundle", bundle.model, bundle.config)
    answer = vitrail.compile_for_inference(tmp_path / "bundle", pictures=1)
    images = pictures(bundle, 2)
    torch.testing.assert_close(answer(images), own_answers(bundle, images), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="engine 'tpu' is none of"):
        vitrail.compile_for_inference(bundle, engine="tpu")  # type: ignore[arg-type]
