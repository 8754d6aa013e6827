"""The sections of the page, each a function of the data; an empty string where there is nothing to show."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence

from vitrail.evaluators.evaluation import ClassScore, Evaluation
from vitrail.report import words
from vitrail.report.data import DataFinding, Mistake, ReportData, Thumbnail
from vitrail.report.distance_plot import distance_plot
from vitrail.report.markup import escape, name, picture
from vitrail.report.plots import line_plot, reliability_plot

MATRIX_CLASSES = 30  # larger matrices are no picture any more: the most frequent confusions are listed instead
NARROW_MATRIX = 14  # up to so many classes, the table of classes fits beside the matrix
TABLE_CLASSES = 100  # of more classes, the table shows the hardest
NUM_CONFUSIONS = 12
NUM_MISTAKES = 24
NUM_GROUPS = 12  # of one finding
NUM_FINDINGS = 40
MISTAKE_SIZE, THUMBNAIL_SIZE = 224, 128  # pixels


def data(report: ReportData) -> str:
    """How many pictures of each class in each split, and what the check found."""
    if not report.split_counts and not report.findings:
        return ""
    order = {"error": 0, "warning": 1, "note": 2}
    ranked = sorted(report.findings, key=lambda finding: order[finding.severity])
    items = "".join(_finding(finding) for finding in ranked[:NUM_FINDINGS])
    more = len(ranked) - NUM_FINDINGS
    tail = f"<p>and {more:,} more; <code>vitrail check</code> tells them all.</p>" if more > 0 else ""
    found = f'<ul class="findings">{items}</ul>{tail}' if items else "<p>Nothing that would harm training.</p>"
    found = f"<div><h3>What the check found</h3>{found}</div>"
    if not report.split_counts:
        return found
    purposes = {"train": "training", "test": "testing"}
    totals = ", ".join(
        f"{sum(counts):,} for {escape(purposes.get(split, split))}" for split, counts in report.split_counts.items()
    )
    lead = f'<p class="lead">{totals}. The model has learnt from the training pictures alone.</p>'
    return f'{lead}<div class="two wide-right">{_counts(report)}{found}</div>'


def _counts(report: ReportData) -> str:
    splits = list(report.split_counts)
    rows = list(range(len(report.classes)))
    if len(rows) > TABLE_CLASSES:
        first = report.split_counts[splits[0]]
        rows = sorted(rows, key=lambda row: (first[row], row))[:TABLE_CLASSES]
    most = max((max(counts, default=0) for counts in report.split_counts.values()), default=0) or 1
    head = "".join(f'<th scope="col">{escape(split)}</th>' for split in splits)
    body = "".join(
        f'<tr><th scope="row">{name(report.classes[row])}</th>'
        + "".join(
            f"<td>{report.split_counts[split][row]:,}"
            + (_meter(report.split_counts[split][row] / most) if split == splits[0] else "")
            + "</td>"
            for split in splits
        )
        + "</tr>"
        for row in rows
    )
    cut = (
        f"<p>The {TABLE_CLASSES} smallest of {len(report.classes):,} classes.</p>"
        if len(rows) < len(report.classes)
        else ""
    )
    table = (
        f'<table class="plain"><thead><tr><th scope="col">class</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    return f'{cut}<div class="card">{_scroll(table, "Pictures of each class in each split")}</div>'


def _finding(finding: DataFinding) -> str:
    shown = list(finding.groups)[:NUM_GROUPS]
    groups = "".join(f"<li>{''.join(map(_thumbnail, group[:6]))}</li>" for group in shown)
    total = len(finding.groups) if finding.num_groups is None else finding.num_groups
    more = f'<p class="key">and {total - len(shown):,} more</p>' if shown and total > len(shown) else ""
    pictures = f'<ul class="groups">{groups}</ul>{more}' if shown else ""
    return (
        f'<li class="finding {finding.severity}"><p><b>{finding.severity.capitalize()}.</b>'
        f" {escape(finding.message)}</p>{pictures}</li>"
    )


def _thumbnail(thumbnail: Thumbnail) -> str:
    note = f"<p>{escape(thumbnail.note)}</p>" if thumbnail.note else ""
    shown = picture(thumbnail.picture, thumbnail.key, THUMBNAIL_SIZE)
    return (
        f'<div class="thumb" title="{escape(thumbnail.key)}"><div class="frame">{shown}</div>{note}'
        f'<p class="key">{name(thumbnail.key)}</p></div>'
    )


def training(report: ReportData) -> str:
    """Loss, validation accuracy and learning rate over the epochs."""
    figures = [_tried_rates(report)] if report.tried_rates else []
    x_label = "epoch" if any("epoch" in row for row in report.history) else "step"
    if loss := _curve(report, "loss"):
        label = f"Training loss from {loss[0][1]:.3g} to {loss[-1][1]:.3g}"
        plot = line_plot(
            loss, label=label, x_label=x_label, y_format=lambda value: f"{value:g}", css_class="loss", from_zero=True
        )
        figures.append(_figure("Training loss", "how wrong the model is on what it learns from; lower is better", plot))
    if accuracy := _curve(report, "validation_accuracy"):
        best = _best(report, accuracy)
        label = f"Validation accuracy from {accuracy[0][1]:.1%} to {accuracy[-1][1]:.1%}, at best {best[1]:.1%}"
        floor = report.floors[-1] if report.floors else None
        plot = line_plot(
            accuracy,
            label=label,
            x_label=x_label,
            y_format=lambda value: f"{100 * value:g}%",
            css_class="accuracy",
            floor=(floor.evaluation.accuracy, "floor") if floor else None,
            mark=(best[0], best[1], f"kept: {best[1]:.1%}"),
            from_zero=True,
        )
        figures.append(_figure("Validation accuracy", "share of other pictures named right, while learning", plot))
    if rate := _curve(report, "learning_rate"):
        label = f"Learning rate, at most {max(value for _, value in rate):.3g}"
        plot = line_plot(
            rate, label=label, x_label=x_label, y_format=lambda value: f"{value:.2g}", css_class="rate", from_zero=True
        )
        figures.append(_figure("Learning rate", "how large the steps of learning are", plot))
    if not figures:
        return ""
    why = f" Recipe <b>{escape(report.recipe)}</b>{_because(report)}" if report.recipe else ""
    text = f'<p class="lead">{escape(report.kept)}{why}</p>' if report.kept or why else ""
    return f'{text}<div class="grid">{"".join(figures)}</div>'


def _tried_rates(report: ReportData) -> str:
    """The sweep that chose the learning rate, as a table."""
    rows = "".join(
        f'<tr><th scope="row">{rate:g}{" (chosen)" if is_chosen else ""}</th>'
        f"<td>{'diverged' if accuracy is None else words.percent(accuracy) + _meter(accuracy)}</td></tr>"
        for rate, accuracy, is_chosen in report.tried_rates
    )
    head = '<tr><th scope="col">learning rate</th><th scope="col">named right</th></tr>'
    table = f'<table class="plain"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    about = "share of held-out pictures named right, in a run of its own for each rate"
    return _figure("Learning rates tried", about, _scroll(table, "Learning rates tried"))


def _because(report: ReportData) -> str:
    reason = report.recipe_reason.strip().rstrip(".")
    return f", because {escape(reason)}." if reason else "."


def _curve(report: ReportData, key: str) -> list[tuple[float, float]]:
    """(epoch, value) of every row that has the value; steps where no row has an epoch."""
    epochs = {row["step"]: row["epoch"] for row in report.history if "step" in row and "epoch" in row}
    points = []
    for row in report.history:
        x, y = row.get("epoch", epochs.get(row.get("step", -1))) if epochs else row.get("step"), row.get(key)
        if x is not None and y is not None and math.isfinite(y):
            points.append((float(x), float(y)))
    return sorted(points, key=lambda point: point[0])


def _best(report: ReportData, accuracy: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The point whose weights were kept."""
    epochs = {row["step"]: row["epoch"] for row in report.history if "step" in row and "epoch" in row}
    kept = epochs.get(report.best_step, report.best_step) if report.best_step is not None else None
    return next((point for point in accuracy if point[0] == kept), max(accuracy, key=lambda point: point[1]))


def _figure(title: str, about: str, plot: str) -> str:
    return f'<figure class="card"><figcaption>{title}<span>{about}</span></figcaption><div>{plot}</div></figure>'


def classes(report: ReportData) -> str:
    """The confusion matrix, and precision, recall and F1 of each class."""
    test = report.test
    if test.num_pictures == 0:
        return ""
    table = _class_table(test)
    explained = (
        "<p>Recall: how many of its pictures were found. Precision: how many of the pictures called so are so."
        " F1 is the harmonic mean of the two.</p>"
    )
    if 2 <= len(test.classes) <= MATRIX_CLASSES:
        lead = (
            '<p class="lead">Each row of the coloured table holds the test pictures of one class, each column what the'
            " model called them. Blue is right; red is wrong, the redder the larger its share of the row.</p>"
        )
        matrix = f'<div class="card">{_scroll(_matrix(test), "Confusion matrix")}</div>'
        columns = "two by-size" if len(test.classes) <= NARROW_MATRIX else "grid one"
        return f'{lead}<div class="{columns}">{matrix}<div>{table}</div></div>{explained}'
    confusions = f"<h3>Most frequent confusions</h3>{_confusions(test)}" if test.confusions else ""
    return f"{explained}{table}{confusions}"


def _confusions(test: Evaluation) -> str:
    rows = "".join(
        f'<tr><th scope="row">{name(test.classes[label])}</th><td>{name(test.classes[prediction])}</td>'
        f"<td>{count:,}</td></tr>"
        for label, prediction, count in test.confusions[:NUM_CONFUSIONS]
    )
    table = (
        '<table class="plain"><thead><tr><th scope="col">class</th><th scope="col">called</th>'
        f'<th scope="col">pictures</th></tr></thead><tbody>{rows}</tbody></table>'
    )
    return f'<div class="card">{_scroll(table, "Most frequent confusions")}</div>'


def _matrix(test: Evaluation) -> str:
    matrix = test.confusion_matrix()
    head = "".join(f'<th scope="col" class="class"><span>{name(label)}</span></th>' for label in test.classes)
    rows = []
    for index, label in enumerate(test.classes):
        total = int(matrix[index].sum())
        cells = "".join(
            _cell(int(matrix[index, column]), total, index == column) for column in range(len(test.classes))
        )
        rows.append(f'<tr><th scope="row">{name(label)}</th>{cells}</tr>')
    return (
        '<table class="matrix"><thead><tr><td class="corner" style="--a:0">is \u2193 called \u2192</td>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(count: int, total: int, is_right: bool) -> str:
    share = count / total if total else 0.0
    shade = share if is_right else math.sqrt(share)
    # No shade between 0.70 and 0.88: neither dark nor white figures would stand out on it.
    alpha = 0.08 + 0.62 * shade / 0.75 if shade < 0.75 else 0.88 + 0.12 * (shade - 0.75) / 0.25
    kind = "right" if is_right else "wrong"
    kind += " zero" if count == 0 else " strong" if shade >= 0.75 else ""
    return f'<td class="{kind}" style="--a:{alpha:.2f}">{count:,}</td>'


def _class_table(test: Evaluation) -> str:
    scores = list(test.per_class)
    note = ""
    if len(scores) > TABLE_CLASSES:
        seen = [score for score in scores if score.support > 0]
        scores = sorted(seen, key=lambda score: (score.recall, score.name))[:TABLE_CLASSES]
        note = f"<p>The {len(scores)} classes with the lowest recall of {len(test.classes):,}.</p>"
    head = "".join(f'<th scope="col">{title}</th>' for title in ("class", "pictures", "precision", "recall", "F1"))
    table = (
        f'<table class="plain"><thead><tr>{head}</tr></thead><tbody>{"".join(map(_class_row, scores))}</tbody></table>'
    )
    return f'{note}<div class="card">{_scroll(table, "Figures of each class")}</div>'


def _class_row(score: ClassScore) -> str:
    if score.support == 0:
        return (
            f'<tr><th scope="row">{name(score.name)}</th><td>0</td>'
            '<td colspan="3" class="none">no pictures in the test split</td></tr>'
        )
    precision = "never called" if score.predicted == 0 else words.percent(score.precision, 0)
    kind = ' class="none"' if score.predicted == 0 else ""
    return (
        f'<tr><th scope="row">{name(score.name)}</th><td>{score.support:,}</td><td{kind}>{precision}</td>'
        f"<td>{words.percent(score.recall, 0)}{_meter(score.recall)}</td><td>{score.f1:.2f}</td></tr>"
    )


def confidence(report: ReportData) -> str:
    """Whether its probabilities can be taken at their word."""
    calibration = report.test.calibration
    if calibration is None or report.test.num_pictures == 0:
        return ""
    sentences = "".join(f"<p>{escape(text)}</p>" for text in words.calibration(calibration, report.test.accuracy))
    plot = reliability_plot(calibration.bins, "Share of right answers by confidence; the dashed line is perfect")
    figure = _figure(
        "When it is sure, is it right?",
        "bars that end on the dashed line keep their word; below it, the model is too sure of itself",
        plot,
    )
    numbers = _pairs(
        [
            ("log loss", f"{calibration.log_loss:.3f}"),
            ("Brier score", f"{calibration.brier_score:.3f}"),
            ("ECE", f"{calibration.expected_calibration_error:.3f}, {len(calibration.bins.counts)} equal bins"),
        ]
    )
    return f'<div class="two">{figure}<div>{sentences}{numbers}</div></div>'


def mistakes(report: ReportData) -> str:
    """The most confident mistakes, with their pictures: often the label is what is wrong."""
    if not report.mistakes:
        return ""
    shown = report.mistakes[:NUM_MISTAKES]
    items = "".join(_mistake(mistake) for mistake in shown)
    has_rollout = any(mistake.rollout is not None for mistake in shown)
    rollout = (
        " Beside each stands what the model saw of it, bright where its answer came from: attention rollout (Abnar and"
        " Zuidema 2020), each by its own largest value."
    )
    return (
        '<p class="lead">Where the model was most sure and wrong. Look at them first: some show what it has not'
        f" understood, and some a wrong label.{rollout if has_rollout else ''}</p>"
        f'<ul class="gallery{" of-pairs" if has_rollout else ""}">{items}</ul>'
    )


def _mistake(mistake: Mistake) -> str:
    alt = f"{mistake.key}: a {mistake.true}, called {mistake.predicted}"
    frames = f'<div class="frame">{picture(mistake.picture, alt, MISTAKE_SIZE)}</div>'
    if mistake.rollout is not None:
        seen = picture(mistake.rollout, f"{mistake.key}: where its answer came from", MISTAKE_SIZE)
        frames = f'<div class="frames">{frames}<div class="frame">{seen}</div></div>'
    sure = escape(words.probability(mistake.probability))
    return (
        f'<li class="shot">{frames}<div class="about">'
        f'<p>called <span class="said">{name(mistake.predicted)}</span> {sure}</p>'
        f'<p>is <b>{name(mistake.true)}</b></p><p class="key">{name(mistake.key)}</p></div></li>'
    )


def distances(report: ReportData) -> str:
    """How far each head looks."""
    found = report.distances
    if found is None:
        return ""
    return distance_plot(found.pixels, found.even, found.definition, found.num_pictures)


def usage(report: ReportData) -> str:
    """What to type next."""
    if not report.run_folder:
        return ""
    run = shlex.quote(report.run_folder)
    commands = (
        ("Name what is in other pictures:", f"vitrail predict {run} holiday/*.jpg"),
        ("Measure it on other labelled pictures:", f"vitrail evaluate {run} OTHER_PHOTOS"),
        ("Start from it on other classes:", f"vitrail fit OTHER_PHOTOS --weights {run}"),
    )
    lines = "".join(f"<p>{title}</p><pre>{escape(command)}</pre>" for title, command in commands)
    return (
        f"<p>All that is needed to use the model is the folder <code>{escape(report.run_folder)}/bundle</code>;"
        f" copy it wherever you like.</p>{lines}"
    )


def making(report: ReportData) -> str:
    """Command, machine, times and the whole configuration."""
    parts = []
    if report.command:
        parts.append(f"<pre>{escape(report.command)}</pre>")
    pairs = [(phase, words.duration(seconds)) for phase, seconds in report.durations.items()]
    columns = [("Time", pairs), ("Made with", list(report.environment.items()))]
    cards = "".join(f'<div class="card"><h3>{title}</h3>{_pairs(rows)}</div>' for title, rows in columns if rows)
    if cards:
        parts.append(f'<div class="grid">{cards}</div>')
    if report.config:
        # Names may hold anything: line by line, so that escape() shows what has no shape but keeps the layout.
        text = "\n".join(escape(line) for line in json.dumps(report.config, indent=2, ensure_ascii=False).split("\n"))
        parts.append(
            "<details><summary>The whole configuration (config.json)</summary>"
            f'<div><pre tabindex="0">{text}</pre></div></details>'
        )
    return "\n".join(parts)


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    return f'<dl class="pairs">{"".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in rows)}</dl>'


def _meter(share: float) -> str:
    return f'<span class="meter" aria-hidden="true"><i style="width:{100 * share:.0f}%"></i></span>'


def _scroll(table: str, label: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{table}</div>'
