"""A suite as one page: the mean, every task beside what was published, and what is missing."""

from __future__ import annotations

from pathlib import Path

from vitrail.report import words
from vitrail.report.document import document, write_document
from vitrail.report.markup import escape, name
from vitrail.report.plots import Scale
from vitrail.tasks.suite import NOT_ASKED, SuiteResult, TaskScore

WIDTH, ROW, LEFT, RIGHT, TOP, LEGEND = 720, 26, 170, 20, 10, 20
MARKS = ("curve loss", "curve rate", "diagonal", "floor")  # the style's lines, one a column
HOW = {
    "finetune": "fine-tuned whole, by the paper's recipes",
    "sweep": "fine-tuned whole, by the paper's recipes and its choice of learning rates",
    "probe": "a quick look: least squares on frozen features, no fine-tuning, so below what fine-tuning reaches",
}


def write_suite_page(result: SuiteResult, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    write_document(render_suite(result), path)


def render_suite(result: SuiteResult) -> str:
    backbone = Path(result.config.backbone).name or result.config.backbone
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences_of(result))
    plot = f'<div class="card">{_plot(result)}</div>' if result.scores else "<p>No task has a score yet.</p>"
    header = f"""<h1>{escape(result.suite.title)} of {name(backbone)}</h1>
<p class="meta">{escape(HOW[result.config.how])} \u00b7 expected figures: {escape(result.suite.source)}</p>"""
    main = f"""<section><h2>{_headline(result)}</h2>
{sentences}
{plot}</section>
<section><h2>Task by task</h2><div class="scroll" tabindex="0">{_table(result)}</div></section>
{_missing(result)}"""
    return document(f"{result.suite.title} of {backbone}", "suite", header, main)


def sentences_of(result: SuiteResult) -> tuple[str, ...]:
    """What a reader must know before looking at the figures; for the page and the terminal."""
    done, of = result.count()
    sentences = []
    if result.is_partial:
        sentences.append(
            f"Partial: {done} of {of} tasks have a score. A mean over fewer tasks is not the suite's mean."
        )
    if result.scores:
        means = [(column, result.expected_mean(column)) for column in result.columns]
        told = ", ".join(f"{_percent(result, mean)} of {column}" for column, mean in means if mean is not None)
        sentences.append(f"Expected of the same {'task' if done == 1 else 'tasks'}: {told}.")
    if result.not_whole:
        tasks = [(result.suite.tasks[score.task], score.num_test) for score in result.not_whole]
        counts = ", ".join(f"{task.title} {count:,} of {task.num_test:,}" for task, count in tasks)
        sentences.append(f"Not the test pictures of the published figures, by their number: {counts}.")
    if not result.is_same_size:
        sentences.append(
            f"Nothing is published for a model of this size; the figures of {result.columns[0]} stand beside as a mark."
        )
    if result.config.how == "probe" and result.scores:
        sentences.append("Expected figures are of fine-tuning; these are of least squares on frozen features.")
    if result.config.scale != 1.0 or result.config.image_size is not None:
        size = "" if result.config.image_size is None else f" at {result.config.image_size} pixels"
        sentences.append(f"The recipes were shrunk (scale {result.config.scale:g}{size}): not the published protocol.")
    return tuple(sentences)


def _headline(result: SuiteResult) -> str:
    mean, (done, of) = result.mean(), result.count()
    if mean is None:
        return "No score yet"
    over = f"partial: {done} of {of} tasks" if result.is_partial else f"{of} tasks"
    return f"{_percent(result, mean)} on average ({over})"


def _plot(result: SuiteResult) -> str:
    scale = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(result.scores)
    parts = []
    for tick in range(0, 101, 20):
        x = scale(tick / 100)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick}%</text>')
    for row, score in enumerate(result.scores):
        title, y = result.suite.tasks[score.task].title, TOP + ROW * (row + 0.5)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(title)}</text>')
        parts.append(
            f'<rect class="bar" x="{LEFT}" width="{scale(score.accuracy) - LEFT:.1f}" y="{y - 6:.1f}" height="12">'
            f"<title>{escape(title)}: {_percent(result, score.accuracy)}</title></rect>"
        )
        parts += [
            _mark(scale(result.expected(score.task, column)), y, number, column)
            for number, column in enumerate(result.columns)
        ]
    for number, column in enumerate(result.columns):
        y = bottom + LEGEND * (number + 2)
        parts.append(_mark(LEFT + 4, y - 4, number, column))
        parts.append(f'<text class="axis-text" x="{LEFT + 14}" y="{y}">expected of {escape(column)}</text>')
    label = f"Accuracy on {len(result.scores)} tasks, as bars, and what is expected, as lines"
    height = bottom + LEGEND * (len(result.columns) + 2)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _mark(x: float, y: float, number: int, column: str) -> str:
    """The upright line of a column."""
    css_class = MARKS[number % len(MARKS)]
    return (
        f'<line class="{css_class}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}">'
        f"<title>{escape(column)}</title></line>"
    )


def _percent(result: SuiteResult, share: float) -> str:
    return words.percent(share, result.suite.digits)


def _table(result: SuiteResult) -> str:
    scores = {score.task: score for score in result.scores}
    head = "".join(f"<th>{escape(column)}</th>" for column in result.columns)
    rows = [
        f"<thead><tr><th>task</th><th>obtained</th>{head}<th>test pictures</th><th>learnt from</th></tr></thead><tbody>"
    ]
    for group in result.suite.groups:
        rows += [_row(result, task, scores.get(task)) for task in result.suite.tasks
                 if result.suite.tasks[task].group == group]  # fmt: skip
        if len(result.suite.groups) > 1:
            rows.append(_mean_row(result, group.capitalize(), group))
    rows.append(_mean_row(result, "All tasks", None))
    return f'<table class="plain">{"".join(rows)}</tbody></table>'


def _row(result: SuiteResult, task_name: str, score: TaskScore | None) -> str:
    task = result.suite.tasks[task_name]
    if score is None:
        obtained, sizes = '<td class="none">missing</td>', "<td></td><td></td>"
    else:
        obtained = f'<td title="{escape(score.note)}">{_percent(result, score.accuracy)}</td>'
        sizes = f"<td>{score.num_test:,}</td><td>{score.num_train:,}</td>"
    expected = "".join(f"<td>{_percent(result, result.expected(task_name, column))}</td>" for column in result.columns)
    return f"<tr><td>{escape(task.title)}</td>{obtained}{expected}{sizes}</tr>"


def _mean_row(result: SuiteResult, title: str, group: str | None) -> str:
    (done, of), mean = result.count(group), result.mean(group)
    over = f"{of} tasks" if done == of else f"partial: {done} of {of} tasks"
    expected = "".join(_share(result, result.expected_mean(column, group)) for column in result.columns)
    return f"<tr><th>{escape(title)}, mean</th>{_share(result, mean)}{expected}<td colspan='2'>{over}</td></tr>"


def _share(result: SuiteResult, value: float | None) -> str:
    return '<td class="none">-</td>' if value is None else f"<td><b>{_percent(result, value)}</b></td>"


def _missing(result: SuiteResult) -> str:
    if not result.missing:
        return ""
    asked = [task for task in result.missing if task.why != NOT_ASKED]
    others = [result.suite.tasks[task.task].title for task in result.missing if task.why == NOT_ASKED]
    items = "".join(
        f"<li><b>{escape(result.suite.tasks[task.task].title)}</b>: {escape(task.describe())}</li>" for task in asked
    )
    listed = f"<ul>{items}</ul>" if items else ""
    rest = f"<p>Not asked for: {escape(', '.join(others))}.</p>" if others else ""
    return f"<section><h2>What is missing</h2>{listed}{rest}</section>"
