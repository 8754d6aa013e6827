"""Frozen dataclasses to plain JSON values and back, strictly: an unknown field or a wrong type is refused by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from vitrail.errors import ConfigError, did_you_mean

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts and lists of JSON values, every field written out."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from what `to_dict` wrote.

    Args:
        data: nested dicts and lists; fields that are absent take their default.
        where: what the values come from ("runs/a/config.json"), for messages.
    Raises:
        ConfigError: an unknown field (with the nearest known name), a missing one without a default, or a value
            of another type than the field's.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object with the fields of {cls.__name__}, found {data!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in data:
        if name not in fields:
            raise ConfigError(f"{where}: unknown field '{name}'.{did_you_mean(name, fields)}")
    values = {name: _typed(hints[name], data[name], f"{where}: {name}") for name in fields if name in data}
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if name not in values and no_default:
            raise ConfigError(f"{where}: the field '{name}' is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _typed(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`: JSON has no tuples, and writes 1.0 as 1 at times."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        named = _by_name(kinds)
        if named:
            # What was written before there was a choice has no name: it is the first kind.
            name = value.get("kind", next(iter(named))) if isinstance(value, dict) else None
            if name not in named:
                raise ConfigError(f"{where}: kind {name!r} is none of {', '.join(filter(None, named))}")
            return _typed(named[name], value, where)
        for kind in kinds[:-1]:
            try:
                return _typed(kind, value, where)
            except ConfigError:
                continue
        return _typed(kinds[-1], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            known = ", ".join(map(str, arguments))
            raise ConfigError(f"{where}: {value!r} is none of {known}.{did_you_mean(str(value), map(str, arguments))}")
        return value
    if origin is tuple:
        return _typed_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, found {value!r}")
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (type(value) is hint):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")


def _by_name(kinds: list[Any]) -> dict[str, Any]:
    """Dataclasses that each say what they are in a field `kind`, by its default; empty where one does not.

    The first may do without, where there was no choice when it was made: its name is the empty one.
    """
    named: dict[str, Any] = {}
    for kind in kinds:
        fields = {field.name: field for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
        if "kind" not in fields and (named or not fields):
            return {}
        named[str(fields["kind"].default) if "kind" in fields else ""] = kind
    return named if len(named) > 1 else {}


def _typed_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_typed(arguments[0], item, where) for item in value)
    if len(value) != len(arguments):
        raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(value)}")
    return tuple(_typed(kind, item, where) for kind, item in zip(arguments, value, strict=True))
