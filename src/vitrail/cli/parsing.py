"""Arguments to a frozen dataclass through tyro; what does not fit is refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from vitrail.errors import VitrailError, did_you_mean

T = TypeVar("T")


class UsageError(VitrailError):
    """The command line cannot be understood."""

    exit_code = 2


def parse(cls: type[T], arguments: Sequence[str], prog: str) -> T:
    """Read `arguments` as the fields of a command's dataclass; `--help` prints and raises SystemExit(0).

    Raises:
        UsageError: an unknown option (with the nearest known one), a missing or a wrong value.
    """
    command, unknown = parse_known(cls, arguments, prog)
    refuse(unknown, option_names(cls), prog)
    return command


def parse_known(cls: type[T], arguments: Sequence[str], prog: str) -> tuple[T, list[str]]:
    """As parse, but hand back the arguments that `cls` does not know."""
    from tyro import conf

    # A command's fields are off or absent unless they are named: "--strict", not "--strict, --no-strict".
    style = (conf.PositionalMetavarFromFieldName, conf.FlagCreatePairsOff, conf.DisallowNone)
    return _ask_tyro(cls, arguments, prog, None, None, style)


def parse_over(default: T, arguments: Sequence[str], prog: str, description: str) -> T:
    """`default` with the fields that `arguments` name; raises UsageError as parse does."""
    from tyro import conf

    cls = type(default)
    config, unknown = _ask_tyro(cls, arguments, prog, default, description, (conf.AvoidSubcommands,))
    refuse(unknown, option_names(cls), prog)
    return config


def _ask_tyro(
    cls: type[T],
    arguments: Sequence[str],
    prog: str,
    default: T | None,
    description: str | None,
    style: tuple[Any, ...],
) -> tuple[T, list[str]]:
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                cls,
                args=list(arguments),
                prog=prog,
                default=tyro.MISSING_NONPROP if default is None else default,
                description=description,
                return_unknown_args=True,
                config=style,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_condensed(said.getvalue())} See `{prog} --help`.") from None


def typed(command: str, arguments: Sequence[str]) -> str:
    """The command line as one can type it again."""
    return shlex.join(["vitrail", command, *arguments])


def refuse(unknown: Sequence[str], known: Sequence[str], prog: str) -> None:
    """Raise UsageError for the first of the `unknown` arguments."""
    if not unknown:
        return
    options = [argument.split("=")[0] for argument in unknown if argument.startswith("-") and argument != "-"]
    if options:
        name = options[0].replace("_", "-")
        raise UsageError(f"unknown option '{options[0]}'.{did_you_mean(name, known)} See `{prog} --help`.")
    raise UsageError(f"unexpected argument '{unknown[0]}'. See `{prog} --help`.")


def option_names(cls: type) -> list[str]:
    """Every option of a dataclass as it is typed: "--optimizer.learning-rate"."""
    return [f"--{path.replace('_', '-')}" for path in _paths(cls)]


def _paths(cls: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        nested = nested_dataclass(hints[field.name])
        if nested is None:
            yield prefix + field.name
        else:
            yield from _paths(nested, f"{prefix}{field.name}.")


def nested_dataclass(hint: Any) -> type | None:
    """The dataclass in the type `hint`, itself or as an alternative to None; else None."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((kind for kind in arguments if dataclasses.is_dataclass(kind) and isinstance(kind, type)), None)


def _condensed(box: str) -> str:
    """The first paragraph of tyro's message in one line, without its frame (or its ASCII rules) and its title."""
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
        if text.startswith("╭"):
            text = "─"  # the title stands in the frame
        text = text.strip("│").strip()
        if set(text) <= set("─╰╯-"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    said = [" ".join(paragraph) for paragraph in paragraphs if paragraph]
    is_framed = "╭" in box
    message = said[0 if is_framed or len(said) == 1 else 1].removeprefix("Error parsing ")
    # "Missing from vitrail predict: MODEL A bundle, or the run folder around it. (required)"
    missing = re.fullmatch(r"Missing from [^:]*: (\S+) (.*?)\.? \(required\).*", message)
    if missing:
        message = f"{missing[1]} is missing: {missing[2]}"
    return message if message.endswith(".") else f"{message}."
