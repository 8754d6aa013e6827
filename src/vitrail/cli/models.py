"""`vitrail models`: the models that can be built, with what they cost, and the public weights."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.parsing import parse
from vitrail.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from vitrail.weights.catalog import CatalogEntry


@dataclass(frozen=True)
class Models:
    """Name, parameters, multiply-accumulates of one picture, and tokens of every variant, with its 1000 classes.

    Every other patch size and picture size can be built as well: "ViT-B/20", "ViT-B/16@384", "BiT-R50x1@448". ResNets
    have no tokens.
    """

    contains: Positional[str] = ""
    """Only those whose name, or name in timm, contains this; of weights also what they were trained on, and where."""
    weights: bool = False
    """List the public weights that can be started from instead: name, size, data, licence, preprocessing, accuracy."""
    json: bool = False
    """The list as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Models, arguments, prog="vitrail models")
    if command.weights:
        _list_weights(command)
    else:
        _list_variants(command)
    return 0


def _list_variants(command: Models) -> None:
    from vitrail.models.config import ViTConfig
    from vitrail.models.kinds import MODELS, count_macs, count_parameters

    chosen = [
        variant
        for variant in MODELS.values()
        if any(command.contains.lower() in name.lower() for name in (variant.name, *variant.timm_names))
    ]
    if not chosen:
        suggestion = did_you_mean(command.contains, MODELS)
        raise ConfigError(f"no model has '{command.contains}' in its name.{suggestion} `vitrail models` lists all.")
    rows = [
        {
            "name": variant.name,
            "parameters": count_parameters(variant.config),
            "gmacs": round(count_macs(variant.config) / 1e9, 3),
            "tokens": variant.config.num_tokens if isinstance(variant.config, ViTConfig) else None,
            "image_size": list(variant.config.image_size),
            "timm": list(variant.timm_names),
        }
        for variant in chosen
    ]
    if command.json:
        write_json(rows)
        return
    table = [["model", "parameters", "GMACs", "tokens", "in timm"]]
    for row, variant in zip(rows, chosen, strict=True):
        parameters = f"{count_parameters(variant.config) / 1e6:,.2f} M"
        tokens = "-" if row["tokens"] is None else f"{row['tokens']:,}"
        table.append([variant.name, parameters, f"{row['gmacs']:,.2f}", tokens, *variant.timm_names[:1]])
        table[-1] += [""] * (5 - len(table[-1]))
    write_columns(table, right=(1, 2, 3))


def _list_weights(command: Models) -> None:
    from vitrail.weights.catalog import CATALOG

    wanted = command.contains.lower()
    chosen = [
        entry
        for entry in CATALOG.values()
        if any(wanted in text.lower() for text in (entry.name, entry.variant, entry.trained_on, entry.source))
    ]
    if not chosen:
        suggestion = did_you_mean(command.contains, CATALOG)
        raise ConfigError(
            f"no weights of the list have '{command.contains}' in their name.{suggestion} `vitrail models --weights`"
            " lists all; any repository of the hub can be given as well: --weights hf-hub:owner/name."
        )
    if command.json:
        write_json([asdict(entry) for entry in chosen])
        return
    table = [["name", "parameters", "trained on", "licence", "pixels", "preprocessing", "top-1"]]
    table += [_cells(entry) for entry in chosen]
    width = _terminal_width()
    if width is None or width >= sum(max(map(len, column)) + 2 for column in zip(*table, strict=True)):
        write_columns(table, right=(1, 4, 6))
    else:
        _write_paragraphs(chosen, width)
    write_line()
    last = (
        "Start from one with `vitrail fit PHOTOS --weights NAME`. Licence: of the weights, as their source states it."
        " top-1: on ImageNet-1k's validation pictures, as published; - where there is no such head, or no figure."
    )
    for line in textwrap.wrap(last, min(width or 120, 120)):
        write_line(line)


def _cells(entry: CatalogEntry) -> list[str]:
    parameters = "-" if entry.parameters is None else f"{entry.parameters:,.1f} M"
    accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.1f} %"
    licence = entry.licence or "not stated"
    return [entry.name, parameters, entry.trained_on, licence, str(entry.image_size), entry.preprocessing, accuracy]


def _write_paragraphs(entries: Sequence[CatalogEntry], width: int) -> None:
    """For terminals where the table has no room: the name, and the rest indented below it."""
    for entry in entries:
        name, parameters, trained_on, licence, pixels, preprocessing, accuracy = _cells(entry)
        write_line(name)
        facts = [entry.variant, f"{parameters} parameters" if parameters != "-" else "", trained_on]
        facts += ["licence not stated" if entry.licence is None else licence]
        facts += [f"{pixels} pixels, {preprocessing}", f"top-1 {accuracy}" if accuracy != "-" else ""]
        for line in textwrap.wrap("; ".join(filter(None, facts)), width - 4, break_on_hyphens=False):
            write_line(f"    {line}")


def _terminal_width() -> int | None:
    """Columns of the terminal; None where the output goes to a file or a program, which want one line for each."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return None
    return max(40, shutil.get_terminal_size().columns)
