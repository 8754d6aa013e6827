from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import pictures, vit_bundle

from vitrail.data.batches import normalize
from vitrail.engines import choice as module
from vitrail.engines.base import Description, Prepared
from vitrail.engines.choice import choose_engine, is_remembered
from vitrail.engines.config import MAX_OFF, InferenceConfig
from vitrail.engines.prepare import Labelled, check, own_answers, prepare, require_near
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


def prepared_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the precision of everything that is prepared from now on."""
    seen: list[str] = []
    real = module.prepare

    def count(bundle: Any, config: InferenceConfig, **more: Any) -> Prepared:
        seen.append(config.precision)
        return real(bundle, config, **more)

    monkeypatch.setattr(module, "prepare", count)
    return seen


def test_the_choice_is_remembered_with_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, seen = vit_bundle(), prepared_by(monkeypatch)
    precisions = ("float32", "bfloat16")
    assert not is_remembered(bundle, CONFIG, None, precisions)
    first = choose_engine(bundle, CONFIG, precisions=precisions)
    assert seen == ["float32", "bfloat16"]
    assert is_remembered(bundle, CONFIG, None, precisions)
    again = choose_engine(bundle, CONFIG, precisions=precisions)
    assert seen[2:] == [first.config.precision]
    assert (first.is_remembered, again.is_remembered) == (False, True)
    assert [item.milliseconds for item in again.candidates] == [item.milliseconds for item in first.candidates]


def test_a_choice_is_remembered_for_about_as_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether torch compiles hangs on their number; two folders never have the same."""
    bundle = vit_bundle()
    choose_engine(bundle, replace(CONFIG, pictures=300))
    assert is_remembered(bundle, replace(CONFIG, pictures=999), None, ("float32", "bfloat16"))
    assert not is_remembered(bundle, replace(CONFIG, pictures=1000), None, ("float32", "bfloat16"))


def leave_little(bundle: Any, images: torch.Tensor) -> None:
    """Make the first picture's logits small differences of large numbers, of which bfloat16 keeps little."""
    with torch.no_grad():
        bundle.model.head.bias -= 0.99 * own_answers(bundle, images)[0]


def test_what_is_too_far_off_is_refused_and_told() -> None:
    bundle = vit_bundle()
    images = pictures(bundle, 8)
    leave_little(bundle, images)
    own = own_answers(bundle, images)
    low = check(prepare(bundle, replace(CONFIG, precision="bfloat16")), images, own)
    assert low.off > MAX_OFF
    choice = choose_engine(bundle, CONFIG, near_on=images, precisions=("bfloat16", "float32"))
    assert choice.config.precision == "float32"
    assert choice.check is not None
    assert choice.check.off < 1e-4
    told = {candidate.precision: candidate.refused for candidate in choice.candidates}
    assert f"torch in bfloat16 is off by {100 * low.off:.2g} % of a row's length" in str(told["bfloat16"])
    with pytest.raises(ConfigError, match=r"no engine passes: torch bfloat16: .* is off by .* and 2 % are allowed"):
        choose_engine(bundle, CONFIG, near_on=images, precisions=("bfloat16",))


def test_a_remembered_choice_is_checked_again_with_these_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_milliseconds", lambda one, other, batch_size: (2.0, 1.0))  # the later one is chosen
    bundle = vit_bundle()
    images = pictures(bundle, 8)
    precisions = ("float32", "bfloat16")
    assert choose_engine(bundle, CONFIG, near_on=images, precisions=precisions).config.precision == "bfloat16"
    again = choose_engine(bundle, CONFIG, near_on=images, precisions=precisions)
    assert (again.config.precision, again.is_remembered) == ("bfloat16", True)
    leave_little(bundle, images)
    last = choose_engine(bundle, CONFIG, near_on=images, precisions=precisions)
    assert (last.config.precision, last.is_remembered) == ("float32", False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_too_far_off(value: float) -> None:
    bundle = vit_bundle()
    images = pictures(bundle, 2)
    description = Description("torch", "float32", False, "plain")
    broken = Prepared(lambda given: torch.full((len(given), 7), value), description, bundle.config.preprocessing)
    with pytest.raises(ConfigError, match="is off by"):
        require_near(check(broken, images, own_answers(bundle, images)), CONFIG)


def test_the_models_own_answers_have_a_cosine_of_one_and_lose_nothing() -> None:
    bundle = vit_bundle()
    labelled = labelled_of(bundle)
    found = check(prepare(bundle, CONFIG), labelled.images, own_answers(bundle, labelled.images), labelled.labels)
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert (found.accuracy, found.own_accuracy, found.loss) == (1, 1, 0)
    assert (found.agreement, found.pictures) == (1, 40)
    assert found.off < 1e-5


def test_labels_must_go_with_pictures() -> None:
    with pytest.raises(ConfigError, match="3 pictures and 2 labels"):
        Labelled(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
