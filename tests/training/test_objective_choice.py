"""A config.json says which objective a run has; those written before there was a choice still read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import CONFIG, Toy

from vitrail.cli.overrides import override
from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import BatchAugmentation
from vitrail.errors import ConfigError
from vitrail.objectives.config import MaskedPatchesConfig, NextPatchConfig, ObjectiveConfig, SupervisedConfig
from vitrail.training.config import AveragingConfig, TrainConfig
from vitrail.training.run_state import RunState

UNLABELLED = replace(
    CONFIG,
    model=replace(CONFIG.model, num_classes=0, width=16, num_heads=2),
    batch_augmentation=BatchAugmentation(),
    averaging=AveragingConfig(),
    objective=MaskedPatchesConfig(),
)


@pytest.mark.parametrize("objective", [SupervisedConfig(balance=True), MaskedPatchesConfig("masked_patches", "pixels")])
def test_every_objective_comes_back_from_json(objective: ObjectiveConfig) -> None:
    base = CONFIG if isinstance(objective, SupervisedConfig) else UNLABELLED
    config = replace(base, objective=objective)
    assert from_dict(TrainConfig, to_dict(config), "config.json") == config


def test_a_config_written_before_there_was_a_choice_is_supervised() -> None:
    values = to_dict(CONFIG)
    del values["objective"]["kind"]
    assert from_dict(TrainConfig, values, "config.json") == CONFIG


def test_mistakes_are_told_of_the_objective_that_was_named() -> None:
    values = to_dict(UNLABELLED)
    values["objective"]["corupted_share"] = 0.2
    with pytest.raises(ConfigError, match=r"objective: unknown field 'corupted_share'.*corrupted_share"):
        from_dict(TrainConfig, values, "config.json")
    values = to_dict(CONFIG)
    values["objective"]["kind"] = "contrastive"
    with pytest.raises(ConfigError, match="'contrastive' is none of supervised, masked_patches, next_patch"):
        from_dict(TrainConfig, values, "config.json")
    values["objective"] = 3
    with pytest.raises(ConfigError, match="objective"):
        from_dict(TrainConfig, values, "config.json")


def test_the_fields_of_the_objective_in_use_are_options() -> None:
    config = override(UNLABELLED, ["--objective.corrupted-share", "0.15"], "test")
    assert config.objective == MaskedPatchesConfig(corrupted_share=0.15)


def test_what_an_objective_without_labels_would_ignore_is_refused() -> None:
    for change, message in [
        ({"model": CONFIG.model}, "num_classes 10"),
        ({"batch_augmentation": BatchAugmentation(mixup_alpha=0.2)}, "batch_augmentation"),
        ({"averaging": AveragingConfig(rate=0.9)}, "averaging.rate 0.9"),
    ]:
        with pytest.raises(ConfigError, match=message):
            replace(UNLABELLED, **change)


@pytest.mark.parametrize("objective", [MaskedPatchesConfig(), NextPatchConfig()])
def test_a_resumed_run_without_labels_equals_an_undisturbed_one(objective: ObjectiveConfig, tmp_path: Path) -> None:
    """Bit for bit, with the head and the [mask] embedding of the objective and their optimizer state."""
    # A constant rate without warm-up, so that a plan of 4 steps begins as one of 10 does.
    schedule = replace(CONFIG.schedule, decay="constant", warmup_epochs=0)
    config = replace(UNLABELLED, objective=objective, schedule=schedule)
    whole = Toy(config, tmp_path / "whole").run(evaluate=None)
    cut_off = Toy(config, tmp_path / "parts")
    cut_off.plan = replace(cut_off.plan, total_steps=4)
    assert cut_off.run(evaluate=None).step == 4
    resumed = Toy(config, tmp_path / "parts").run(evaluate=None)
    assert resumed.step == whole.step > 4
    _require_equal(resumed, whole)


def _require_equal(one: RunState, other: RunState) -> None:
    states = one.objective.state_dict(), other.objective.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
