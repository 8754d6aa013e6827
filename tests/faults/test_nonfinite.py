"""Numbers that are not finite stop a run before they destroy its weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toy_run import CONFIG, Toy

from vitrail.data.loader import Batch
from vitrail.errors import NonFiniteError
from vitrail.objectives.base import Inputs
from vitrail.training.config import AveragingConfig, OptimizerConfig
from vitrail.training.events import SilentSink
from vitrail.training.run_state import RunState, load_latest_checkpoint, save_checkpoint


class Poisoned(Toy):
    """A toy whose sixth batch holds one value that is not finite."""

    poison: float
    state: RunState

    def fresh_state(self) -> RunState:
        self.state = super().fresh_state()
        prepare = self.state.objective.prepare

        def poisoned(batch: Batch, generator: torch.Generator) -> Inputs:
            inputs = prepare(batch, generator)
            if self.state.step == 5:
                inputs["images"][3, 0, 0, 0] = self.poison
            return inputs

        self.state.objective.prepare = poisoned  # type: ignore[method-assign]
        return self.state


class Notes(SilentSink):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nan_in_a_batch_stops_before_the_update_and_names_step_files_and_checkpoint(
    tmp_path: Path, poison: float
) -> None:
    toy, notes = Poisoned(folder=tmp_path / "run"), Notes()
    toy.poison = poison
    with pytest.raises(NonFiniteError) as raised:
        toy.run(notes)
    message = str(raised.value)
    files = [toy.source.key(index) for index in next(toy.loader.stream(5, 6)).indices.tolist()]
    assert message.startswith("step 6: loss nan")
    assert f"{', '.join(files[:8])} and 16 more" in message
    assert "Last good checkpoint: checkpoints/step-00000004" in message
    assert any(", ".join(files) in text for text in notes.texts)  # the log has all of them

    # The weights are still those after the fifth update of a run without poison.
    Toy(replace(CONFIG, checkpoint_every_steps=5), tmp_path / "clean").run()
    checkpoint, _ = load_latest_checkpoint(tmp_path / "clean")
    assert checkpoint is not None
    (tmp_path / "clean" / "checkpoints" / "step-00000010" / "manifest.json").unlink()
    checkpoint, _ = load_latest_checkpoint(tmp_path / "clean")
    assert checkpoint is not None
    assert checkpoint.step == 5
    for name, tensor in toy.state.objective.state_dict().items():
        assert torch.equal(tensor, checkpoint.tensors["model.safetensors"][name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("averaging", [None, 0.9])
def test_an_absurd_learning_rate_never_leaves_broken_weights_behind(
    tmp_path: Path, optimizer: str, averaging: float | None
) -> None:
    config = replace(
        CONFIG,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=1e9),  # type: ignore[arg-type]
        averaging=AveragingConfig(averaging),
    )
    toy = Poisoned(config, tmp_path / "run")
    toy.poison = 0.0
    refusal = "a lower learning rate"
    try:
        toy.run()
    except NonFiniteError as error:
        refusal = str(error)
    assert "lower learning rate" in refusal
    assert toy.state.step > 1
    for folder in (tmp_path / "run" / "checkpoints").glob("step-*"):
        assert (folder / "manifest.json").exists()
    checkpoint, skipped = load_latest_checkpoint(tmp_path / "run")
    assert skipped == []
    if checkpoint is not None:
        for named in checkpoint.tensors.values():
            assert all(tensor.isfinite().all() for tensor in named.values() if tensor.is_floating_point())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    state = Toy().fresh_state()
    save_checkpoint(tmp_path, state)
    state.step = 1
    with torch.no_grad():
        state.objective.model.head.bias[0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"'model\.head\.bias'.*Last good checkpoint: checkpoints/step-00000000"):
        save_checkpoint(tmp_path, state)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]
