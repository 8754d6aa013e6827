"""`vitrail suite NAME BACKBONE`: one backbone on the paper's data sets, beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from vitrail.cli.output import write_columns, write_json, write_line
from vitrail.cli.parsing import UsageError, parse, typed
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.tasks.suite import SuiteResult


@dataclass(frozen=True)
class SuiteCommand:
    """Score a backbone on many data sets, each by the paper's protocol. A task whose files are missing is left out and
    named, and the mean is marked partial. A suite that was stopped goes on: finished tasks are kept.

    Suites: vtab1k (19 tasks, 1,000 training pictures each); transfer (ImageNet, ReaL, CIFAR-10, CIFAR-100, Pets,
    Flowers).
    """

    name: Positional[str] = ""
    """Which one."""
    backbone: Positional[str] = ""
    """A bundle, a run, a weights file of any layout, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    data: str | None = None
    """A folder with one folder for each data set, by its name; by default $VITRAIL_DATA, downloaded where that is
    possible."""
    tasks: tuple[str, ...] = ()
    """Only these; all by default."""
    how: Literal["finetune", "sweep", "probe"] = "finetune"
    """finetune: the paper's recipes. sweep, for transfer: also its choice among learning rates. probe: least squares on
    frozen features, minutes in place of hours."""
    real: str | None = None
    """ImageNet-ReaL's real.json, for the suite transfer."""
    scale: float = 1.0
    """Shrinks the recipes: so many times their updates, and their pictures an update."""
    image_size: int | None = None
    """Pixels a side in fine-tuning; by default 384, as published."""
    seed: int = 0
    """Of the fine-tuning."""
    out: str | None = None
    """A folder; runs/<suite>-<how>-<backbone> by default."""
    json: bool = False
    """The result as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(SuiteCommand, arguments, prog="vitrail suite")
    if not command.name or not command.backbone:
        raise UsageError("name a suite and a backbone (`vitrail suite vtab1k BACKBONE --data FOLDER`).")
    from vitrail.report.suite_page import write_suite_page
    from vitrail.tasks.suite import SuiteConfig, run_suite
    from vitrail.training.events import Events

    config = SuiteConfig(
        name=command.name,
        backbone=command.backbone,
        data=command.data,
        tasks=command.tasks,
        how=command.how,
        real_labels=command.real,
        scale=command.scale,
        image_size=command.image_size,
        out=command.out,
        seed=command.seed,
    )
    with Events(Terminal()) as events:
        result = run_suite(config, events, typed("suite", arguments))
    write_suite_page(result, result.folder / "suite.html")
    if command.json:
        write_json(result.to_json())
    else:
        _tell(result)
    return 0 if result.scores else 1


def _tell(result: SuiteResult) -> None:
    from vitrail.report.suite_page import sentences_of
    from vitrail.tasks.suite import NOT_ASKED, TABLE_FILE

    how = "frozen features" if result.config.how == "probe" else "fine-tuned"
    rows = [["", how, *result.columns, "learnt from", "tested on", ""]]
    scores = {score.task: score for score in result.scores}
    several = len(result.suite.groups) > 1
    for group in result.suite.groups:
        for name, task in result.suite.tasks.items():
            if task.group != group:
                continue
            expected = [_share(result, result.expected(name, column)) for column in result.columns]
            score = scores.get(name)
            if score is None:
                rows.append([task.title, "missing", *expected, "", "", ""])
            else:
                sizes = (f"{score.num_train:,}", f"{score.num_test:,}")
                rows.append([task.title, _share(result, score.accuracy), *expected, *sizes, ""])
        if several:
            rows += [_mean(result, f"{group.capitalize()}, mean", group), [""] * len(rows[0])]
    rows.append(_mean(result, "All tasks, mean", None))
    write_columns(rows, right=range(1, len(result.columns) + 4))
    write_line()
    for sentence in sentences_of(result):
        write_line(sentence.replace("\u00a0", " "))
    for missing in result.missing:
        if missing.why != NOT_ASKED:
            write_line(f"Missing: {result.suite.tasks[missing.task].title}. {missing.describe()}")
    write_line(f"Table: {result.folder / TABLE_FILE}, page: {result.folder / 'suite.html'}")


def _mean(result: SuiteResult, title: str, group: str | None) -> list[str]:
    done, of = result.count(group)
    expected = [_share(result, result.expected_mean(column, group)) for column in result.columns]
    partial = "" if done == of else f"PARTIAL: {done} of {of} tasks"
    return [title, _share(result, result.mean(group)), *expected, "", "", partial]


def _share(result: SuiteResult, share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.{result.suite.digits}f} %"
