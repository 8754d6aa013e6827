"""A study as one page: what was asked, every run as a dot, the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitrail.errors import RunError
from vitrail.report import words
from vitrail.report.markup import escape, name
from vitrail.report.plots import Scale, round_ticks
from vitrail.tasks.study import StudyResult, StudyRun, mean_and_spread

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 720, 30, 220, 16, 10, 40
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_study_page(result: StudyResult, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    try:
        path.write_text(render_study(result), encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunError(f"{path}: the page cannot be written ({error.strerror}); make room and try again") from error


def render_study(result: StudyResult) -> str:
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    cells = result.by_cell()
    seeds = len(next(iter(cells.values())))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(result.name)} on {escape(result.data)} \u2013 Vitrail study</title>
<style>
{style}</style>
</head>
<body>
<header>
<div class="brand"><span><b>Vitrail</b> study</span></div>
<h1>{name(result.name)} on {name(result.data)}</h1>
<p class="meta">{escape(result.study.question)} \u00b7 asked in {escape(result.study.source)} of Dosovitskiy et al. 2021
 \u00b7 {result.steps:,} updates a run \u00b7 {seeds} {"seed" if seeds == 1 else "seeds"}</p>
</header>
<main>
<section><h2>Test accuracy</h2>
<p>{escape(verdict(result))}</p>
<div class="card">{_dots(result)}</div></section>
<section><h2>The runs</h2>{_table(result)}</section>
</main>
<footer><p>Made by Vitrail. This page is one file: nothing is loaded, nothing is sent, no script runs.</p></footer>
</body>
</html>
"""


def verdict(result: StudyResult) -> str:
    """The best and the worst cell, and whether the seeds tell them apart."""
    cells = result.by_cell()
    ranked = sorted(cells, key=lambda cell: -mean_and_spread(cells[cell])[0])
    best, worst = ranked[0], ranked[-1]
    (high, spread), (low, other) = mean_and_spread(cells[best]), mean_and_spread(cells[worst])
    gap = f"{best} is best with {words.percent(high)}, {worst} worst with {words.percent(low)}"
    if len(cells[best]) < 2:
        return f"{gap}. One seed a cell tells nothing of chance: small differences mean nothing."
    within = [
        cell for cell in ranked[1:] if high - mean_and_spread(cells[cell])[0] <= 2 * max(spread, _spread(cells, cell))
    ]
    if len(within) == len(ranked) - 1:
        return (
            f"{gap}, but no cell lies further from the best than twice the spread of the seeds: no difference is shown."
        )
    shown = ", ".join(within)
    near = f" Within twice the spread of the seeds of the best: {shown}." if within else ""
    return f"{gap}; the spread of the seeds is {100 * max(spread, other):.1f} points.{near}"  # fmt: skip


def _spread(cells: dict[str, list[StudyRun]], cell: str) -> float:
    return mean_and_spread(cells[cell])[1]


def _dots(result: StudyResult) -> str:
    cells = result.by_cell()
    values = [run.test_accuracy for run in result.runs]
    ticks = round_ticks(min(values), max(values), 5)
    if len(ticks) == 1:
        ticks = [max(0.0, ticks[0] - 0.05), ticks[0] + 0.05]
    scale = Scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(cells)
    parts = []
    for tick in ticks:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{100 * tick:g}%</text>')
    for row, (cell, runs) in enumerate(cells.items()):
        y = TOP + ROW * (row + 0.5)
        mean = scale(mean_and_spread(runs)[0])
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(cell)}</text>')
        parts.append(
            f'<line class="curve accuracy" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>'
        )
        for run in runs:
            parts.append(
                f'<circle class="dot accuracy" cx="{scale(run.test_accuracy):.1f}" cy="{y:.1f}" r="4">'
                f"<title>seed {run.seed}: {words.percent(run.test_accuracy)}</title></circle>"
            )
    label = f"Test accuracy of every run of {len(cells)} cells; the bar is the mean of the seeds"
    parts.append(
        f'<text class="axis-text" x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{bottom + 34}" text-anchor="middle">'
        "test accuracy of each run; the bar is the mean</text>"
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _table(result: StudyResult) -> str:
    head = "<tr><th>cell</th><th>mean</th><th>spread</th><th>every seed</th><th>parameters</th><th>GMACs</th></tr>"
    return f'<table class="plain">{head}{"".join(_rows(result.by_cell()))}</table>'


def _rows(cells: dict[str, list[StudyRun]]) -> Sequence[str]:
    rows = []
    for cell, runs in cells.items():
        mean, spread = mean_and_spread(runs)
        every = ", ".join(words.percent(run.test_accuracy) for run in runs)
        figures = (words.percent(mean), f"{100 * spread:.1f}", every, f"{runs[0].parameters:,}", f"{runs[0].gmacs:.3f}")
        rows.append(f"<tr><td>{name(cell)}</td>{''.join(f'<td>{escape(figure)}</td>' for figure in figures)}</tr>")
    return rows
