"""`vitrail check PHOTOS`: what is wrong with a data set, before anyone trains on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from vitrail.cli.output import write_json, write_line
from vitrail.cli.parsing import parse
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Check:
    """Look at every picture once: broken, duplicated, contradictory and leaking ones are named. Changes nothing."""

    photos: Positional[str]
    """A folder (PHOTOS/<class>/... or PHOTOS/{train,val,test}/<class>/...), a .csv or .parquet with path,label[,split],
    "digits", or "hf:NAME"."""
    strict: bool = False
    """Exit with 1 where anything above a note was found."""
    json: bool = False
    """The whole report as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Check, arguments, prog="vitrail check")
    from vitrail.data.findings import STRICT_CODES
    from vitrail.tasks.check import CheckConfig, check
    from vitrail.training.events import Events

    with Events(Terminal()) as events:
        report = check(CheckConfig(data=command.photos), events)
    if command.json:
        write_json(report.to_json())
    else:
        _tell(report)
    refused = any(finding.code in STRICT_CODES for finding in report.findings)
    return 1 if command.strict and refused else 0


def _tell(report: Any) -> None:
    broken = f", {len(report.broken):,} of them broken" if report.broken else ""
    write_line(f"{report.num_samples:,} pictures in {len(report.classes):,} classes{broken}")
    for finding in report.findings:
        write_line(f"{finding.severity}: {finding.message}")
    if not report.findings:
        write_line("nothing was found that would harm training")
