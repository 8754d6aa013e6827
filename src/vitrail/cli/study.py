"""`vitrail study NAME --data PHOTOS`: the paper's controlled comparisons on one's own pictures."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional, UseAppendAction

from vitrail.cli.output import percent, write_columns, write_json, write_line
from vitrail.cli.parsing import UsageError, parse, typed
from vitrail.cli.terminal import Terminal


@dataclass(frozen=True)
class Study:
    """A table of runs that differ in one thing, each with several seeds and the same updates.

    Studies: positions, pooling, data-size, shape, compute. A study that was stopped goes on when it is started again:
    finished runs are kept.
    """

    name: Positional[str] = ""
    """Which one."""
    data: str | None = None
    """The pictures, as for `vitrail fit`."""
    seeds: int = 3
    """Runs of each cell."""
    steps: int = 600
    """Updates of 64 pictures, of every run; of `compute`, of the ViT's largest run, whose compute the others have."""
    baseline: UseAppendAction[tuple[str, ...]] = ()
    """Of `compute`: a model of timm beside the three families (ghostnet_100), by its name there; may be repeated."""
    out: str | None = None
    """A folder; runs/study-<name>-<data> by default."""
    json: bool = False
    """The result as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Study, arguments, prog="vitrail study")
    if not command.name or command.data is None:
        raise UsageError("name a study and the pictures (`vitrail study positions --data PHOTOS`).")
    from vitrail.report.study_page import verdict, write_study_page
    from vitrail.tasks.study import StudyConfig, mean_and_spread, run_study
    from vitrail.training.events import Events

    config = StudyConfig(command.name, command.data, command.seeds, command.steps, command.out, command.baseline)
    with Events(Terminal()) as events:
        result = run_study(config, events, typed("study", arguments))
    page = result.folder / "study.html"
    write_study_page(result, page)
    if command.json:
        write_json(result.to_json())
        return 0
    rows = [["", "test accuracy", "spread", "parameters", "GMACs", "updates", "FLOPs"]]
    for cell, runs in result.by_cell().items():
        mean, spread = mean_and_spread(runs)
        first = runs[0]
        cost = [f"{first.parameters:,}", f"{first.gmacs:.3f}", f"{first.updates:,}", f"{first.training_flops:.2e}"]
        rows.append([cell, percent(mean), f"{100 * spread:.1f}" if len(runs) > 1 else "-", *cost])
    write_columns(rows, right=tuple(range(1, len(rows[0]))))
    said = verdict(result).replace("\u00a0", " ")
    write_line(f"\n{result.study.question} {said}")
    write_line(f"Without any training: {result.floor} {percent(result.floor_accuracy)}.")
    write_line(f"Table: {result.folder / 'study.csv'}, page: {page}")
    return 0
