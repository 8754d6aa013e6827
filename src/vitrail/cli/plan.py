"""`vitrail plan RECIPE_OR_MODEL --on DEVICE`: what a run needs, before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.parsing import UsageError, parse

if TYPE_CHECKING:
    from vitrail.tasks.plan import PlanResult
    from vitrail.training.config import TrainConfig


@dataclass(frozen=True)
class Plan:
    """Parameters, FLOPs, memory, steps, hours and cost of a run. Trains nothing; --on here times a few updates."""

    what: Positional[str]
    """A recipe (`vitrail train --list`) or a model (`vitrail models`)."""
    on: str = "here"
    """"here", or A100-40GB, A100-80GB, H100, H200, V100, T4, RTX-4090, TPUv3-core."""
    devices: int = 1
    """That share each batch."""
    data: str | None = None
    """The pictures, as for `vitrail fit`; their number and sizes decide."""
    pictures: int | None = None
    """In place of --data: the number of training pictures."""
    classes: int = 1000
    """With --pictures."""
    epochs: float | None = None
    """In place of the recipe's; a model alone has 100."""
    steps: int | None = None
    """In place of epochs."""
    batch_size: int | None = None
    """In place of the recipe's; a model alone has 64."""
    accumulation_steps: int | None = None
    """Micro-batches an update."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """auto: bfloat16 where the device has it; here, the faster one."""
    checkpointing: bool = False
    """Blocks computed again in the backward pass."""
    utilization: float = 0.4
    """Share of a named device's peak that training reaches."""
    price: float | None = None
    """Of one device for an hour."""
    json: bool = False
    """The plan as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Plan, arguments, prog="vitrail plan")
    if (command.data is None) == (command.pictures is None):
        raise UsageError("give either --data PHOTOS or --pictures N, the number of training pictures.")
    from vitrail.tasks.plan import HERE, get_device, plan

    if command.on != HERE:
        get_device(command.on)
    config, num_train, num_validation = _config(command)
    result = plan(
        config,
        num_train,
        command.on,
        num_devices=command.devices,
        num_validation=num_validation,
        utilization=command.utilization,
        price=command.price,
    )
    if command.json:
        write_json({**asdict(result), "fits": result.fits})
    else:
        _tell(result)
    return 0


def _config(command: Plan) -> tuple[TrainConfig, int, int]:
    """The run's config, its training pictures and those of each evaluation."""
    from vitrail.data.config import DataConfig, Preprocessing
    from vitrail.data.facts import DataFacts
    from vitrail.models.kinds import get_model_config
    from vitrail.models.variants import get_config
    from vitrail.recipes import RECIPES, Situation, StartingWeights
    from vitrail.training.config import TrainConfig

    data, num_validation = DataConfig(command.data or "PHOTOS"), 0
    facts = DataFacts(num_classes=command.classes, num_train=command.pictures or 1)
    if command.data is not None:
        facts, num_validation = _facts(data)
    if command.what in RECIPES:
        # A fine-tuning recipe takes its architecture from the weights; without any, the base model stands for them.
        start = StartingWeights("BUNDLE", get_config("ViT-B/16"), Preprocessing())
        config: Any = RECIPES[command.what](Situation(data, facts, start))
    else:
        model = get_model_config(command.what)
        config = TrainConfig(command.what, data, model, Preprocessing(image_size=model.image_size))
    config = replace(config, model=replace(config.model, num_classes=facts.num_classes))
    schedule = config.schedule
    if command.epochs is not None:
        schedule = replace(schedule, epochs=command.epochs, steps=None)
    if command.steps is not None:
        schedule = replace(schedule, steps=command.steps)
    changes: dict[str, Any] = {"schedule": schedule, "checkpointing": command.checkpointing or config.checkpointing}
    if command.batch_size is not None:
        micro_batch = config.batch_size // config.accumulation_steps
        parts = -(-command.batch_size // micro_batch)
        while command.batch_size % parts:
            parts += 1
        changes |= {"batch_size": command.batch_size, "accumulation_steps": parts}
    if command.accumulation_steps is not None:
        changes["accumulation_steps"] = command.accumulation_steps
    if command.precision is not None:
        changes["precision"] = command.precision
    return replace(config, **changes), facts.num_train, num_validation


def _facts(data: Any) -> tuple[Any, int]:
    """As `vitrail train` will see them: what is held out is not trained on."""
    import numpy as np

    from vitrail.data.sources import open_source
    from vitrail.data.split import TEST, VALIDATION
    from vitrail.tasks.situation import situation

    source = open_source(data.source)
    facts = situation(data, source).facts
    held_out = {split: int(np.sum(source.splits == split)) for split in (VALIDATION, TEST)}
    assigned = sum(held_out.values())
    validation = held_out[VALIDATION] or round(data.validation_share * (len(source) - assigned))
    test = held_out[TEST] or round(data.test_share * (len(source) - assigned))
    return replace(facts, num_train=len(source) - validation - test), validation


def _tell(result: PlanResult) -> None:
    rows = [
        ["parameters", f"{result.parameters:,}"],
        ["one update", f"{result.step_flops / 1e12:,.3g} teraFLOPs, {result.batch_size} pictures"],
        ["updates", f"{result.total_steps:,} ({result.steps_per_epoch:,} an epoch)"],
        ["the run", f"{result.exaflops:.4g} exaFLOPs"],
        ["time", f"{_duration(result.hours)} ({result.seconds_per_step:.3g} s an update; {result.how})"],
    ]
    if result.cost is not None:
        rows.append(["cost", f"{result.cost:,.2f}"])
    write_columns(rows)
    write_line()
    if result.memory is None:
        write_line("memory: not modelled for this architecture")
        return
    memory = result.memory
    table: list[tuple[str, int]] = [
        ("weights", memory.weights),
        ("optimizer state", memory.optimizer),
        ("averaged weights", memory.averaged),
        ("gradients", memory.gradients),
        ("pictures of a batch", memory.batch),
        ("kept for the backward pass", memory.activations.total - memory.activations.gradient_scratch),
        ("gradients of activations", memory.activations.gradient_scratch),
        ("best weights, on the host", memory.best),
    ]
    write_columns([[name, f"{size / 1e6:,.1f} MB"] for name, size in table if size], right=(1,))
    assert result.memory_needed is not None
    place = "here" if result.device == "here" else f"on each {result.device}"
    write_line(
        f"the most at once {place}, in {result.precision}: {result.memory_needed / 1e9:.2f} GB of"
        f" {result.memory_available / 1e9:.1f} GB"
    )
    if not result.fits:
        write_line(f"this does not fit. {result.remedy}")


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"
