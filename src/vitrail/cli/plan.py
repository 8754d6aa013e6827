"""`vitrail plan RECIPE_OR_MODEL --on DEVICE`: what a run needs, before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.parsing import UsageError, parse

if TYPE_CHECKING:
    from vitrail.data.facts import DataFacts
    from vitrail.data.sources.base import Source
    from vitrail.tasks.plan import PlanResult
    from vitrail.training.config import TrainConfig

_IMAGENET = 1_281_167  # training pictures of ImageNet-1k
_STAND_IN = "ViT-B/16"  # for the weights that a fine-tuning recipe takes its architecture from


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
    """The pictures, as for `vitrail fit`; their number decides, and here reading them is timed as well."""
    pictures: int | None = None
    """In place of --data: the number of training pictures; that of ImageNet-1k by default."""
    classes: int | None = None
    """In place of --data: 1000 by default."""
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
    if command.data is not None and (command.pictures is not None or command.classes is not None):
        raise UsageError("give either --data PHOTOS or --pictures N [--classes K], not both.")
    for option, number in (("--classes", command.classes), ("--batch-size", command.batch_size)):
        if number is not None and number < 1:
            raise UsageError(f"{option} {number} is not at least 1.")
    from vitrail.recipes import RECIPES, needs_weights
    from vitrail.tasks.plan import HERE, get_device, plan

    if command.on != HERE:
        get_device(command.on)
    pictures = _pictures(command)
    config = _config(command, pictures.facts)
    result = plan(
        config,
        pictures.facts.num_train,
        command.on,
        num_devices=command.devices,
        num_validation=pictures.num_validation,
        num_test=pictures.num_test,
        source=pictures.source,
        utilization=command.utilization,
        price=command.price,
    )
    stand_in = _STAND_IN if command.what in RECIPES and needs_weights(command.what) else None
    if command.json:
        write_json({**asdict(result), "fits": result.fits, "weights_taken_to_be": stand_in})
    else:
        _tell(result, pictures, stand_in)
    return 0


@dataclass(frozen=True)
class _Pictures:
    """What the run is planned on."""

    facts: DataFacts
    num_validation: int = 0
    num_test: int = 0
    source: Source | None = None


def _pictures(command: Plan) -> _Pictures:
    from vitrail.data.facts import DataFacts

    if command.data is not None:
        return _pictures_of(command.data)
    num_train = _IMAGENET if command.pictures is None else command.pictures
    return _Pictures(DataFacts(num_classes=1000 if command.classes is None else command.classes, num_train=num_train))


def _config(command: Plan, facts: DataFacts) -> TrainConfig:
    from vitrail.data.config import DataConfig, Preprocessing
    from vitrail.errors import ConfigError, did_you_mean
    from vitrail.models.kinds import get_model_config
    from vitrail.models.variants import get_config
    from vitrail.objectives.config import SupervisedConfig
    from vitrail.recipes import RECIPES, Situation, StartingWeights, needs_weights
    from vitrail.training.config import TrainConfig

    data = DataConfig(command.data or "PHOTOS")
    if command.what in RECIPES:
        start = None
        if needs_weights(command.what):
            start = StartingWeights("BUNDLE", get_config(_STAND_IN), Preprocessing())
        config: Any = RECIPES[command.what](Situation(data, facts, start))
    else:
        try:
            model = get_model_config(command.what)
        except ConfigError as error:
            if near := did_you_mean(command.what, RECIPES):
                raise ConfigError(f"unknown recipe or model '{command.what}'.{near}") from error
            raise
        config = TrainConfig(command.what, data, model, Preprocessing(image_size=model.image_size))
    if isinstance(config.objective, SupervisedConfig):
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
    planned: TrainConfig = replace(config, **changes)
    return planned


def _pictures_of(data: str) -> _Pictures:
    """As `vitrail train` will see them: what is held out is not trained on."""
    import numpy as np

    from vitrail.data.config import DataConfig
    from vitrail.data.sources import open_source
    from vitrail.data.split import TEST, VALIDATION
    from vitrail.tasks.situation import situation

    config, source = DataConfig(data), open_source(data)
    facts = situation(config, source).facts
    held_out = {split: int(np.sum(source.splits == split)) for split in (VALIDATION, TEST)}
    assigned = sum(held_out.values())
    validation = held_out[VALIDATION] or round(config.validation_share * (len(source) - assigned))
    test = held_out[TEST] or round(config.test_share * (len(source) - assigned))
    return _Pictures(replace(facts, num_train=len(source) - validation - test), validation, test, source)


def _tell(result: PlanResult, pictures: _Pictures, stand_in: str | None) -> None:
    facts = pictures.facts
    name = "ImageNet-1k's number" if facts.num_train == _IMAGENET else "made up" if pictures.source is None else ""
    rows = [
        ["pictures", f"{facts.num_train:,} to train on, {facts.num_classes:,} classes{name and f' ({name})'}"],
        ["parameters", f"{result.parameters:,}" + (f" ({stand_in}, for the recipe's weights)" if stand_in else "")],
        ["one update", f"{_flops(result.step_flops)}, {result.batch_size} pictures"],
        ["updates", f"{result.total_steps:,} ({result.steps_per_epoch:,} an epoch)"],
        ["the run", _flops(result.exaflops * 1e18)],
        ["time", f"{_duration(result.hours)} ({result.seconds_per_step:.3g} s an update; {result.how})"],
    ]
    shown = {part: hours for part, hours in result.hours_by_part.items() if hours > 0.005 * result.hours}
    if len(shown) > 1:
        rows.append(["of it", ", ".join(f"{part} {_duration(hours)}" for part, hours in shown.items())])
    if result.cost is not None:
        rows.append(["cost", f"{result.cost:,.2f}"])
    write_columns(rows)
    write_line()
    memory = result.memory
    table: list[tuple[str, int]] = [
        ("weights", memory.weights),
        ("optimizer state", memory.optimizer),
        ("averaged weights", memory.averaged),
        ("best weights, on the host", memory.best),
        ("pictures of a batch", memory.batch),
        ("an update at its highest point", memory.update),
        ("  gradients alone", memory.gradients),
        ("  kept for the backward pass alone", memory.kept),
        ("an evaluation at its highest point", memory.evaluation),
        ("Python, torch and what else a run loads", result.memory_process),
    ]
    write_columns([[name, f"{size / 1e6:,.1f} MB"] for name, size in table if size], right=(1,))
    place = "here" if result.device == "here" else f"on each {result.device}"
    workers = f"; each loader process {result.memory_worker / 1e6:.0f} MB more" if result.memory_worker else ""
    write_line(
        f"the most at once {place}, in {result.precision}: {result.memory_needed / 1e9:.2f} GB of"
        f" {result.memory_available / 1e9:.1f} GB{workers}"
    )
    if not result.fits:
        write_line(f"this does not fit. {result.remedy}")


def _flops(number: float) -> str:
    for unit, size in (("exa", 1e18), ("peta", 1e15), ("tera", 1e12)):
        if number >= size:
            return f"{number / size:.4g} {unit}FLOPs"
    return f"{number / 1e9:.4g} gigaFLOPs"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"
