"""What `fit` and `train` end with: the report in the run folder, where there is one, and the result on stdout."""

from __future__ import annotations

from vitrail.cli.output import write_json, write_line
from vitrail.report.from_run import report_data
from vitrail.report.page import write_report
from vitrail.tasks.pretraining import PretrainingResult
from vitrail.tasks.result import RunResult


def finish(result: RunResult | PretrainingResult, as_json: bool) -> int:
    if isinstance(result, RunResult):
        write_report(report_data(result), result.folder / "report.html")
    if as_json:
        write_json(result.to_json())
    else:
        for line in result.describe():
            write_line(line)
    return 0
