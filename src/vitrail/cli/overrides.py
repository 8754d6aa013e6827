"""Every field of a TrainConfig as an option, with a recipe's values as the defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from vitrail.cli.parsing import nested_dataclass, parse_over

T = TypeVar("T")


def override(default: T, arguments: Sequence[str], prog: str, description: str = "") -> T:
    """`default` with the fields that `arguments` name: `--optimizer.learning-rate 3e-4 --schedule.epochs 20`.

    A part that is off (`--augmentation.randaugment`) is switched on, with its own defaults, by naming one of its
    fields, and switched off by the value None.

    Raises:
        UsageError: an unknown field (with the nearest known one) or a wrong value.
        ConfigError: fields that contradict each other.
    """
    default, rest = _switch(default, list(arguments), "--")
    return parse_over(default, rest, prog, description)


def _switch(config: Any, arguments: list[str], prefix: str) -> tuple[Any, list[str]]:
    """Switch optional parts on or off: tyro has no word for that but subcommands."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        kind = nested_dataclass(hints[field.name])
        if kind is None:
            continue
        option, part = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name)
        spelled = [argument.replace("_", "-") for argument in arguments]
        if f"{option}=None" in spelled:
            arguments.pop(spelled.index(f"{option}=None"))
            part = None
        elif option in spelled and arguments[spelled.index(option) + 1 :][:1] == ["None"]:
            del arguments[spelled.index(option) : spelled.index(option) + 2]
            part = None
        elif part is None and any(argument.startswith(f"{option}.") for argument in spelled):
            part = kind()
        if part is not None:
            part, arguments = _switch(part, arguments, f"{option}.")
        if part != getattr(config, field.name):
            config = dataclasses.replace(config, **{field.name: part})
    return config, arguments
