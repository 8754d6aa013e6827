"""`vitrail models`: the Vision Transformers that can be built, with what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json
from vitrail.cli.parsing import parse


@dataclass(frozen=True)
class Models:
    """Name, parameters, multiply-accumulates and tokens of every variant, without its head (0 classes)."""

    contains: Positional[str] = ""
    """Only names (or timm aliases) that contain this."""
    json: bool = False
    """The list as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Models, arguments, prog="vitrail models")
    from vitrail.tasks.models import list_models

    rows: list[dict[str, Any]] = [row.to_json() for row in list_models(command.contains)]
    if command.json:
        write_json(rows)
        return 0
    table = [["model", "pixels", "parameters", "GMACs", "tokens", "in timm"]]
    for row in rows:
        height, width = row["image_size"]
        table.append(
            [
                row["name"],
                f"{height} x {width}",
                f"{row['parameters'] / 1e6:,.1f} M",
                f"{row['gmacs']:,.2f}",
                f"{row['tokens']:,}",
                row["timm"] or "",
            ]
        )
    write_columns(table, right=(1, 2, 3, 4))
    return 0
