from __future__ import annotations

import dataclasses
import re

import pytest

from vitrail.cli.overrides import override
from vitrail.cli.parsing import UsageError, option_names
from vitrail.data.config import DataConfig, Preprocessing, RandAugment
from vitrail.models.config import ViTConfig
from vitrail.training.config import TrainConfig

DEFAULT = TrainConfig("some", DataConfig("photos"), ViTConfig(), Preprocessing())


def _override(*arguments: str, default: TrainConfig = DEFAULT) -> TrainConfig:
    return override(default, arguments, "vitrail train some")


def test_nothing_named_changes_nothing() -> None:
    assert _override() == DEFAULT


def test_single_fields_change_and_the_others_stay() -> None:
    changed = _override(
        "--optimizer.learning-rate", "3e-4", "--optimizer.clip_norm=None", "--schedule.steps", "70",
        "--model.image-size", "32", "48", "--preprocessing.image-size", "32", "48", "--model.no-class-token",
        "--model.pooling", "gap", "--data.source", "other",
    )  # fmt: skip
    assert changed == dataclasses.replace(
        DEFAULT,
        data=DataConfig("other"),
        model=ViTConfig(image_size=(32, 48), class_token=False, pooling="gap"),
        preprocessing=Preprocessing(image_size=(32, 48)),
        optimizer=dataclasses.replace(DEFAULT.optimizer, learning_rate=3e-4, clip_norm=None),
        schedule=dataclasses.replace(DEFAULT.schedule, steps=70),
    )


def test_an_optional_part_is_switched_on_by_a_field_and_off_by_none() -> None:
    on = _override("--augmentation.randaugment.magnitude", "5")
    assert on.augmentation.randaugment == RandAugment(magnitude=5.0)
    assert _override("--augmentation.randaugment", "None", default=on) == DEFAULT
    assert _override("--augmentation.randaugment=None", default=on) == DEFAULT
    assert _override("--augmentation.randaugment.num-operations=3", default=on).augmentation.randaugment == RandAugment(
        magnitude=5.0, num_operations=3
    )


def test_every_field_is_an_option() -> None:
    options = option_names(TrainConfig)
    assert "--augmentation.randaugment.magnitude-std" in options
    assert "--averaging.rate" in options
    for option in ("--batch-size", "--model.depth", "--loader.num-workers", "--optimizer.layer-decay"):
        value = "1" if option != "--optimizer.layer-decay" else "0.5"
        assert option in options
        assert _override(option, value) != DEFAULT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimiser.learning-rate", "1"], "Did you mean '--optimizer.learning-rate'"),
        (["--augmentation.randaugment.magnitud", "1"], "Did you mean '--augmentation.randaugment.magnitude'"),
        (["--optimizer.learning-rate", "-1"], "learning_rate -1.0 is not positive"),
        (["--batch-size", "7.5"], "--batch-size"),
        (["--model.depth"], "--model.depth"),
        (["stray"], "unexpected argument 'stray'"),
        (["--batch-size", "10", "--accumulation-steps", "3"], "batch_size 10 is not divisible by accumulation_steps 3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        _override(*arguments)
    assert "\n" not in str(refused.value)
