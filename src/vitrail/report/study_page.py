"""A study as one page: what was asked, every run as a dot, the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitrail.recipes.compute import BUDGETS, family_and_budget
from vitrail.report import words
from vitrail.report.document import document, write_document
from vitrail.report.markup import escape, name
from vitrail.report.plots import WIDE, Scale, lines_plot, round_ticks
from vitrail.tasks.study import StudyResult, StudyRun, mean_and_spread

# As wide as plots.py has it for a card of its own, so that its text stays readable on a telephone: names stand above.
WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = WIDE, 40, 22, 24, 4, 40
_ONE_SEED = "One seed a cell tells nothing of chance: small differences mean nothing."
_EQUAL = 1.05  # compute of the most and the least at one budget


def write_study_page(result: StudyResult, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    write_document(render_study(result), path)


def render_study(result: StudyResult) -> str:
    cells = result.by_cell()
    seeds = max(map(len, cells.values()))
    header = f"""<h1>{name(result.name)} on {name(result.data)}</h1>
<p class="meta">{escape(result.study.question)} \u00b7 asked in {escape(result.study.source)} of Dosovitskiy et al. 2021
 \u00b7 {_effort(result)} \u00b7 {seeds} {"seed" if seeds == 1 else "seeds"}</p>"""
    main = f"""<section><h2>Test accuracy</h2>
<p>{escape(verdict(result))}</p>
<div class="card narrow">{(_lines if result.study.by_compute else _dots)(result)}</div></section>
<section><h2>The runs</h2>{_table(result)}</section>"""
    return document(f"{result.name} on {result.data}", "study", header, main)


def _effort(result: StudyResult) -> str:
    if result.study.by_compute:
        return f"as much compute as {result.steps:,} updates of the ViT, and shares of it"
    return f"{result.steps:,} updates a run"


def verdict(result: StudyResult) -> str:
    """The best and the worst cell, and whether the seeds tell them apart; by compute, the families in order. What
    diverged is named."""
    cells = result.by_cell()
    said = _verdict_by_compute(cells) if result.study.by_compute else _verdict(cells)
    return f"{said} Diverged, and in no figure: {'; '.join(result.diverged)}." if result.diverged else said


def _verdict_by_compute(cells: dict[str, list[StudyRun]]) -> str:
    budgets: dict[str, list[StudyRun]] = {budget: [] for budget in BUDGETS}
    for cell in _ranked(cells):
        budgets[family_and_budget(cell)[1]].append(cells[cell][0])
    told = []
    for budget, runs in budgets.items():
        if not runs:
            continue
        figures = (f"{family_and_budget(run.cell)[0]} {_mean(cells, run.cell)}" for run in runs)
        told.append(f"With {budget}: {', '.join(figures)}.")
    flops = [[run.training_flops for run in runs] for runs in budgets.values() if runs]
    if any(max(spent) > _EQUAL * min(spent) for spent in flops):
        told.append("These runs are so short that whole updates make their compute unequal: --steps makes them longer.")
    if min(map(len, cells.values())) < 2:
        return f"{' '.join(told)} {_ONE_SEED}"
    largest = max(_spread(cells, cell) for cell in cells)
    return f"{' '.join(told)} The spread of the seeds is {100 * largest:.1f} points at most."


def _mean(cells: dict[str, list[StudyRun]], cell: str) -> str:
    return words.percent(mean_and_spread(cells[cell])[0])


def _ranked(cells: dict[str, list[StudyRun]]) -> list[str]:
    """The best first."""
    return sorted(cells, key=lambda cell: -mean_and_spread(cells[cell])[0])


def _verdict(cells: dict[str, list[StudyRun]]) -> str:
    ranked = _ranked(cells)
    best, worst = ranked[0], ranked[-1]
    (high, spread), (low, other) = mean_and_spread(cells[best]), mean_and_spread(cells[worst])
    gap = f"{best} is best with {words.percent(high)}, {worst} worst with {words.percent(low)}"
    if len(cells[best]) < 2:
        return f"{gap}. {_ONE_SEED}"
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
        y = TOP + ROW * row + 27
        mean = scale(mean_and_spread(runs)[0])
        parts.append(f'<text class="mark-text" x="{LEFT}" y="{y - 13}">{escape(cell)}</text>')
        parts.append(f'<line class="curve accuracy" x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 8}" y2="{y + 8}"/>')
        for run in runs:
            parts.append(
                f'<circle class="dot accuracy" cx="{scale(run.test_accuracy):.1f}" cy="{y}" r="4">'
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


def _lines(result: StudyResult) -> str:
    """Accuracy over training compute, as figure 5."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in result.runs:
        lines.setdefault(family_and_budget(run.cell)[0], []).append((float(run.training_flops), run.test_accuracy))
    return lines_plot(
        lines,
        label=f"Test accuracy over training compute of {', '.join(lines)}",
        x_label="training compute of a run, FLOPs",
        x_format=words.power_of_ten,
        y_format=lambda value: f"{100 * value:g}%",
        floor=(result.floor_accuracy, f"no training: {result.floor}"),
    )


def _table(result: StudyResult) -> str:
    names = ("cell", "mean", "spread", "every seed", "parameters", "GMACs", "updates", "FLOPs")
    head = f"<thead><tr>{''.join(f'<th>{each}</th>' for each in names)}</tr></thead>"
    return f"""<div class="scroll" tabindex="0"><table class="plain">{head}
<tbody>{"".join(_rows(result.by_cell()))}</tbody></table></div>
<p class="figure-note">Spread: standard deviation over the seeds, in points. GMACs: multiply-adds of one picture's
 forward pass. FLOPs: of the whole training, forward and backward, two for a multiply-add.</p>"""


def _rows(cells: dict[str, list[StudyRun]]) -> Sequence[str]:
    rows = []
    for cell, runs in cells.items():
        mean, spread = mean_and_spread(runs)
        every = ", ".join(words.percent(run.test_accuracy) for run in runs)
        first = runs[0]
        accuracy = (words.percent(mean), f"{100 * spread:.1f}" if len(runs) > 1 else "\u2013", every)
        cost = (f"{first.parameters:,}", f"{first.gmacs:.3f}", f"{first.updates:,}")
        figures = (*accuracy, *cost, words.power_of_ten(first.training_flops))
        rows.append(f"<tr><td>{name(cell)}</td>{''.join(f'<td>{escape(figure)}</td>' for figure in figures)}</tr>")
    return rows
