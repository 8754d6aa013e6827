"""`vitrail models`: the Vision Transformers that can be built, with what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json
from vitrail.cli.parsing import parse
from vitrail.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Models:
    """Name, parameters, multiply-accumulates of one picture, and tokens of every variant, with its 1000 classes.

    Every other patch size and picture size can be built as well: "ViT-B/20", "ViT-B/16@384".
    """

    contains: Positional[str] = ""
    """Only those whose name, or name in timm, contains this."""
    json: bool = False
    """The list as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Models, arguments, prog="vitrail models")
    from vitrail.models.costs import count_macs, count_parameters
    from vitrail.models.variants import VARIANTS

    chosen = [
        variant
        for variant in VARIANTS.values()
        if any(command.contains.lower() in name.lower() for name in (variant.name, *variant.timm_names))
    ]
    if not chosen:
        suggestion = did_you_mean(command.contains, VARIANTS)
        raise ConfigError(f"no model has '{command.contains}' in its name.{suggestion} `vitrail models` lists all.")
    rows = [
        {
            "name": variant.name,
            "parameters": count_parameters(variant.config),
            "gmacs": round(count_macs(variant.config) / 1e9, 3),
            "tokens": variant.config.num_tokens,
            "image_size": list(variant.config.image_size),
            "timm": list(variant.timm_names),
        }
        for variant in chosen
    ]
    if command.json:
        write_json(rows)
        return 0
    table = [["model", "parameters", "GMACs", "tokens", "in timm"]]
    for row, variant in zip(rows, chosen, strict=True):
        parameters = f"{count_parameters(variant.config) / 1e6:,.2f} M"
        table.append([variant.name, parameters, f"{row['gmacs']:,.2f}", f"{row['tokens']:,}", *variant.timm_names[:1]])
        table[-1] += [""] * (5 - len(table[-1]))
    write_columns(table, right=(1, 2, 3))
    return 0
