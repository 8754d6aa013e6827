from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_run import CONFIG, Toy

from vitrail.data.config import BatchAugmentation
from vitrail.data.loader import Batch
from vitrail.training.config import AveragingConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from vitrail.training.events import Progress, SilentSink
from vitrail.training.run_state import RunState, load_latest_checkpoint
from vitrail.training.step import accumulate_gradients, split_inputs

# Nothing that draws random numbers in the forward pass, so that runs which cut a batch differently can be compared.
STILL = replace(CONFIG.model, dropout_rate=0.0, stochastic_depth_rate=0.0)


class Listener(SilentSink):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.shown: list[Progress] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((step, dict(values)))

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)

    def series(self, name: str) -> list[float]:
        return [values[name] for _, values in self.lines if name in values]


def weights(state: RunState) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in state.objective.parameters()])


def test_it_learns_the_digits() -> None:
    config = replace(
        CONFIG,
        model=replace(STILL, patch_size=2),
        augmentation=replace(CONFIG.augmentation, max_shift=0, flip_rate=0.0),
        batch_augmentation=BatchAugmentation(),
        schedule=ScheduleConfig(epochs=12, warmup_epochs=1),
        accumulation_steps=1,
        evaluate_every_epochs=6,
    )
    listener = Listener()
    state = Toy(config).run(listener)
    assert state.step == 60
    assert listener.series("train_loss")[-1] < 0.75 * listener.series("train_loss")[0]
    assert state.best is not None
    assert state.best.metrics["accuracy"] > 0.3  # chance is 0.1


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not() -> None:
    one, same = Toy().run(), Toy().run()
    other = Toy(replace(CONFIG, seed=1)).run()
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("parts", [2, 3, 24])
def test_gradients_in_parts_are_those_of_the_whole_batch(parts: int) -> None:
    toy = Toy(replace(CONFIG, model=STILL, objective=replace(CONFIG.objective, balance=True)))
    state = toy.fresh_state()
    nn.init.normal_(state.objective.model.head.weight)
    # 23 pictures: the parts are not all of one size.
    batch = next(toy.loader.stream(0, 1))
    batch = replace(batch, images=batch.images[:23], labels=batch.labels[:23], indices=batch.indices[:23])
    inputs = state.objective.prepare(batch, torch.Generator().manual_seed(0))
    gradients, losses = [], []
    for num_parts in (1, parts):
        state.optimizer.zero_grad()
        metrics = accumulate_gradients(state.objective, inputs, 0, num_parts, torch.autocast("cpu", enabled=False))
        gradients.append(torch.cat([p.grad.flatten() for p in state.objective.parameters() if p.grad is not None]))
        losses.append(metrics["loss"])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses[0], losses[1])


def test_parts_cover_the_batch_once() -> None:
    inputs = {"images": torch.arange(7.0)[:, None], "labels": torch.arange(7)}
    parts = list(split_inputs(inputs, 3))
    assert torch.equal(torch.cat([part["labels"] for part, _ in parts]), inputs["labels"])
    assert sum(share for _, share in parts) == pytest.approx(1.0)


def test_accumulation_gives_the_run_of_the_whole_batch_up_to_rounding() -> None:
    config = replace(CONFIG, model=STILL, optimizer=OptimizerConfig(name="sgd", learning_rate=0.1))
    whole, parts = (Toy(replace(config, accumulation_steps=number)).run() for number in (1, 4))
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_changes_memory_and_nothing_else() -> None:
    plain, recomputed = Toy().run(), Toy(replace(CONFIG, checkpointing=True)).run()
    torch.testing.assert_close(weights(plain), weights(recomputed), rtol=1e-5, atol=1e-6)


def test_evaluation_sees_the_averaged_weights_in_evaluation_mode() -> None:
    toy, seen = Toy(), []

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        assert not any(module.training for module in model.modules())
        seen.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone())
        return {"accuracy": 0.5}

    state = toy.run(evaluate=evaluate)
    assert state.averaged is not None
    average = torch.cat([parameter.flatten() for parameter in state.averaged.model.parameters()])
    assert torch.equal(seen[-1], average)
    assert not torch.equal(seen[-1], weights(state))
    assert len(seen) == 5


def test_without_averaging_the_trained_weights_are_evaluated_and_go_on_training() -> None:
    toy = Toy(replace(CONFIG, averaging=AveragingConfig(), early_stopping_epochs=None))
    modes = []

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        modes.append(model.training)
        return {"accuracy": 0.0}

    state = toy.run(evaluate=evaluate)
    assert state.averaged is None
    assert modes == [False] * 5
    assert state.objective.training
    assert state.objective.model.training


def test_the_best_weights_are_kept_not_the_last() -> None:
    accuracies: Iterator[float] = iter([0.1, 0.7, 0.7, 0.3, 0.2])
    seen = []

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"accuracy": next(accuracies)}

    state = Toy().run(evaluate=evaluate)
    assert state.best is not None
    assert (state.best.step, state.best.metrics) == (4, {"accuracy": 0.7})
    for name, tensor in state.best.weights.items():
        assert torch.equal(tensor, seen[1][name])


def test_early_stopping_ends_a_run_that_no_longer_gets_better(tmp_path: Path) -> None:
    config = replace(CONFIG, schedule=ScheduleConfig(epochs=40), early_stopping_epochs=2)
    accuracies = iter([0.1, 0.5] + [0.5] * 100)
    toy, listener = Toy(config, tmp_path / "run"), Listener()
    state = toy.run(listener, evaluate=lambda model: {"accuracy": next(accuracies)})
    assert state.step == 4 + 10  # the best came after 4 steps, and 2 epochs have 10
    assert state.stopped is not None
    assert "2 epochs" in state.stopped
    assert any("stopped early" in note for note in listener.notes)
    # Resuming it does not start it again.
    again = toy.run(evaluate=lambda model: pytest.fail("evaluated again"))
    assert again.step == 14


def test_an_evaluation_that_is_not_finite_never_counts_as_best() -> None:
    values = iter([0.2, float("nan"), 0.1, float("inf"), 0.15])
    listener = Listener()
    state = Toy().run(listener, evaluate=lambda model: {"accuracy": next(values), "loss": 1.0})
    assert state.best is not None
    assert state.best.metrics["accuracy"] == 0.2
    assert len(listener.warnings) == 2


class LeakyLoader:
    """A toy's loader whose pictures cannot all be read."""

    def __init__(self, toy: Toy) -> None:
        self.loader = toy.loader
        self.steps_per_epoch = toy.loader.steps_per_epoch

    def stream(self, first_step: int, end_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(self.loader.stream(first_step, end_step), first_step):
            keep = 0 if step == 3 else 20
            broken = tuple((int(index), f"digits/{index}: truncated") for index in batch.indices[keep:])
            yield replace(
                batch,
                images=batch.images[:keep],
                labels=batch.labels[:keep],
                indices=batch.indices[:keep],
                broken=broken,
            )


def test_broken_pictures_are_named_once_and_an_empty_batch_makes_no_update() -> None:
    toy, listener = Toy(), Listener()
    toy.loader = LeakyLoader(toy)  # type: ignore[assignment]
    state = toy.run(listener)
    assert state.step == 10
    assert len(listener.warnings) == len(set(listener.warnings))
    assert all(warning.startswith("left out: digits/") for warning in listener.warnings)
    told = {step for step, values in listener.lines if "train_loss" in values}
    assert told == set(range(1, 11)) - {4}
    assert all(parameter.isfinite().all() for parameter in state.objective.parameters())


def test_every_step_is_told_with_its_rate_and_progress() -> None:
    listener = Listener()
    Toy().run(listener)
    assert [progress.done for progress in listener.shown] == list(range(1, 11))
    assert {progress.total for progress in listener.shown} == {10}
    assert listener.series("learning_rate")[:3] == [0.0, 0.005, 0.01]
    assert listener.series("epoch")[-1] == 2.0
    assert listener.shown[-1].values["images_per_second"] > 0
    assert "validation_accuracy" in listener.shown[-1].values


def test_checkpoints_come_at_their_rhythm_and_old_ones_go(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every_steps=3, keep_checkpoints=3)
    Toy(config, tmp_path / "run").run()
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000009",
        "step-00000010",
    ]


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every_steps=None, checkpoint_every_minutes=0.0, keep_checkpoints=100)
    Toy(config, tmp_path / "run").run()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 10


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    toy = Toy(folder=tmp_path / "run")
    first = toy.run()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = toy.run(evaluate=lambda model: pytest.fail("nothing is left to do"))
    assert again.step == first.step
    assert torch.equal(weights(first), weights(again))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_training_time_adds_up_over_resumes(tmp_path: Path) -> None:
    toy = Toy(folder=tmp_path / "run")
    toy.run()
    checkpoint, _ = load_latest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.record["seconds"] > 0
    assert toy.run().seconds == checkpoint.record["seconds"]


def test_an_unresolved_precision_is_refused() -> None:
    config: TrainConfig = replace(CONFIG, precision="auto")
    with pytest.raises(ValueError, match="resolved by a trial"):
        Toy(config).run()


def test_bfloat16_keeps_the_weights_in_float32() -> None:
    state = Toy(replace(CONFIG, precision="bfloat16")).run()
    assert {parameter.dtype for parameter in state.objective.parameters()} == {torch.float32}
    assert state.best is not None
