from __future__ import annotations

import pytest
import torch
from small_models import pictures, vit_bundle

from vitrail.data.batches import normalize
from vitrail.engines import prepare as module
from vitrail.engines.config import InferenceConfig
from vitrail.engines.prepare import Labelled, check, choose_engine, prepare
from vitrail.engines.quantization import has_int8
from vitrail.errors import ConfigError

CONFIG = InferenceConfig(compile=False, batch_size=4)


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_engines", lambda: ("torch",))


def labelled_of(bundle: object, count: int = 40) -> Labelled:
    """Pictures with the classes that the model itself gives: it is right about all of them."""
    images = pictures(bundle, count)  # type: ignore[arg-type]
    with torch.inference_mode():
        own = bundle.model(normalize(images, bundle.config.preprocessing))  # type: ignore[attr-defined]
    return Labelled(images, own.argmax(1))


def test_the_fastest_that_passes_is_chosen_and_the_others_are_told() -> None:
    bundle = vit_bundle()
    choice = choose_engine(bundle, CONFIG, labelled=labelled_of(bundle), max_loss=1.0)
    told = {candidate.precision: candidate for candidate in choice.candidates}
    assert set(told) == {"float32", "bfloat16", "int8"}
    assert told["int8"].refused is not None
    assert "not tried" in told["int8"].refused
    timed = {name: item.milliseconds for name, item in told.items() if item.milliseconds is not None}
    assert choice.config.precision == min(timed, key=lambda name: timed[name])
    assert choice.prepared.description.precision == choice.config.precision
    (line,) = [line for line in choice.describe() if line.startswith("*")]
    assert choice.config.precision in line


@pytest.mark.skipif(not has_int8(), reason="this processor has no exact 8-bit products")
def test_what_loses_too_much_is_not_chosen_however_fast() -> None:
    bundle = vit_bundle()
    even = torch.full_like(pictures(bundle, 1), 128)  # far from what will come
    choice = choose_engine(
        bundle, CONFIG, calibration=even, labelled=labelled_of(bundle), precisions=("float32", "int8")
    )
    assert choice.config.precision == "float32"
    with pytest.raises(ConfigError, match="no engine passes: torch int8: torch in int8 loses"):
        choose_engine(bundle, CONFIG, calibration=even, labelled=labelled_of(bundle), precisions=("int8",))


def test_the_choice_is_remembered() -> None:
    bundle = vit_bundle()
    first = choose_engine(bundle, CONFIG)
    assert len(first.candidates) == 3
    again = choose_engine(bundle, CONFIG)
    assert [(item.engine, item.precision) for item in again.candidates] == [("torch", first.config.precision)]


def test_the_models_own_answers_have_a_cosine_of_one_and_lose_nothing() -> None:
    bundle = vit_bundle()
    labelled = labelled_of(bundle)
    found = check(prepare(bundle, CONFIG), bundle, CONFIG, labelled.images, labelled.labels)
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert found.loss == 0
    assert (found.agreement, found.pictures) == (1, 40)


def test_labels_must_go_with_pictures() -> None:
    with pytest.raises(ConfigError, match="3 pictures and 2 labels"):
        Labelled(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
