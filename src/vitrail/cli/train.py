"""`vitrail train RECIPE --data PHOTOS`: a recipe by name, with any of its fields changed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.overrides import override
from vitrail.cli.parsing import UsageError, option_names, parse_known, refuse, typed
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.training.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Train by a recipe; every field of its configuration is an option (`vitrail train RECIPE --help`)."""

    data: str | None = None
    """As for `vitrail fit`."""
    config: str | None = None
    """The config.json of a run, to repeat it, in place of a recipe."""
    weights: str | None = None
    """What to start from: a bundle, a run, a weights file, a name of `vitrail models --weights`, hf-hub:owner/name."""
    out: str | None = None
    """The run folder; runs/<name of the data> by default. An existing one is never overwritten."""
    scale: float = 1.0
    """Shrinks a recipe: so many times its updates, and its pictures an update; the schedule keeps its shape."""
    sweep: bool = False
    """Try the recipe's learning rates on held-out training pictures, then learn from all of them with the best."""
    rates: tuple[float, ...] = ()
    """With --sweep: the learning rates to try, in place of the recipe's."""
    held_out: float | None = None
    """With --sweep: the share of the training pictures to choose by, in place of the recipe's."""
    list: bool = False
    """List the recipes."""
    json: bool = False
    """The answer as JSON."""


PROG = "vitrail train"


def run(arguments: list[str]) -> int:
    wants_help = bool({"-h", "--help"} & set(arguments))
    own = [argument for argument in arguments if argument not in ("-h", "--help")]
    command, rest = parse_known(Train, own, PROG)
    # What is left belongs to the recipe: its name, then fields of its configuration.
    recipe = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if command.list:
        refuse([recipe] if recipe else rest, option_names(Train), PROG)
        _list(command.json)
        return 0
    if wants_help and not recipe and not command.config:
        parse_known(Train, ["--help"], f"{PROG} [RECIPE]")
    if not command.sweep and (command.rates or command.held_out is not None):
        raise UsageError("--rates and --held-out say how a sweep goes: add --sweep.")
    if bool(recipe) == bool(command.config):
        raise UsageError(
            "name a recipe first (`vitrail train digits_vit --data digits`; --list shows them), or give"
            " --config RUN/config.json."
        )
    if command.config and command.scale != 1.0:
        raise UsageError("--scale shrinks a recipe, and --config has all its fields already: leave --scale out.")
    if wants_help:
        rest = ["--help"]
    if command.sweep and any(argument.startswith("--optimizer.learning") for argument in rest):
        raise UsageError("--sweep tries several learning rates: name them with --rates.")
    factor = 1.0  # on the learning rates of the recipe
    if command.config:
        config = _from_file(command, rest)
    else:
        config, factor = _from_recipe(recipe, command, rest)
    from vitrail.cli.finish import finish
    from vitrail.recipes.sweeps import get_sweep
    from vitrail.tasks.sweep import sweep
    from vitrail.tasks.train import train
    from vitrail.training.events import Events

    said = typed("train", arguments)
    with Events(Terminal()) as events:
        if not command.sweep:
            return finish(train(config, command.out, events, said), command.json)
        rates = get_sweep(config.recipe, command.rates, command.held_out, factor)
        return finish(sweep(config, rates, command.out, events, said), command.json)


def _from_file(command: Train, rest: list[str]) -> TrainConfig:
    import json

    from vitrail.configuration import from_dict
    from vitrail.errors import ConfigError
    from vitrail.training.config import TrainConfig

    assert command.config is not None
    path = Path(command.config)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name the config.json of a run folder") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON ({error})") from error
    if command.data is not None:
        rest = [f"--data.source={command.data}", *rest]
    if command.weights is not None:
        rest = [f"--weights={command.weights}", *rest]
    return override(from_dict(TrainConfig, values, str(path)), rest, PROG)


def _from_recipe(name: str, command: Train, rest: list[str]) -> tuple[TrainConfig, float]:
    """The config, and the factor of --scale on its learning rate."""
    from vitrail.data.config import DataConfig, Preprocessing
    from vitrail.models.config import ViTConfig
    from vitrail.recipes import Situation, StartingWeights, get_recipe, needs_weights
    from vitrail.recipes.scaling import shrink

    recipe, prog = get_recipe(name), f"{PROG} {name}"
    start = None
    if "--help" in rest and needs_weights(name):
        start = StartingWeights("BUNDLE", ViTConfig(), Preprocessing())
    if command.weights is not None:
        from vitrail.weights.load import load, pinned

        brought = load(command.weights, verify=False)
        start = StartingWeights(pinned(command.weights, brought), brought.config.model, brought.config.preprocessing)
        rest = [f"--weights={start.path}", *rest]
    # First for made-up pictures: a mistyped option is refused before a large data set is read.
    made_up = Situation(data=DataConfig(source=command.data or "PHOTOS"), start=start)
    description = f"{inspect.getdoc(recipe) or ''}\n\nUsage: {prog} --data PHOTOS [--out FOLDER] [--json] [OPTIONS]"
    override(shrink(recipe(made_up), command.scale)[0], rest, prog, description)
    if command.data is None:
        raise UsageError(f"--data is missing: name the pictures (`{prog} --data PHOTOS`).")
    from vitrail.tasks.situation import situation
    from vitrail.training.events import Events

    with Events(Terminal()) as events:
        given = situation(DataConfig(source=command.data), progress=events.download)
        whole = recipe(replace(given, start=start))
        config, changes = shrink(whole, command.scale)
        for change in changes:
            events.note(f"scale {command.scale:g}: {change}")
    return override(config, rest, prog), config.optimizer.learning_rate / whole.optimizer.learning_rate


def _list(as_json: bool) -> None:
    from vitrail.recipes import RECIPES

    about = {name: inspect.getdoc(recipe) or "" for name, recipe in RECIPES.items()}
    if as_json:
        write_json([{"recipe": name, "about": text} for name, text in about.items()])
        return
    write_columns([[name, text.split("\n\n")[0].replace("\n", " ")] for name, text in about.items()])
    write_line()
    write_line("`vitrail train RECIPE --help` shows every field; `vitrail fit PHOTOS` chooses a recipe itself.")
