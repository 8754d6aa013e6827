"""The report of a run: what was learnt, for someone who is no expert, and all details for someone who is."""

from __future__ import annotations

from pathlib import Path

from vitrail.evaluators.comparison import Comparison
from vitrail.report import sections, words
from vitrail.report.data import ReportData
from vitrail.report.document import document, in_sections, write_document
from vitrail.report.markup import escape, name


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    write_document(render_report(data), path)


def render_report(data: ReportData) -> str:
    """The whole page as one string; the same data gives the same page."""
    parts = [
        ("data", "The data", sections.data(data)),
        ("training", "Training", sections.training(data)),
        ("classes", "Class by class", sections.classes(data)),
        ("mistakes", "Mistakes", sections.mistakes(data)),
        ("confidence", "Confidence", sections.confidence(data)),
        ("distance", "How far each head looks", sections.distances(data)),
        ("use", "Use it", sections.usage(data)),
        ("making", "How it was made", sections.making(data)),
    ]
    links, bodies = in_sections(parts)
    header = f"""<h1>{name(data.title)}</h1>
<p class="meta">{_meta(data)}</p>
{links}"""
    return document(f"{data.title} \u2013 {_percent(data)}", "report", header, f"{_answer(data)}\n{bodies}")


def _percent(data: ReportData) -> str:
    return words.percent(data.test.accuracy)


def _meta(data: ReportData) -> str:
    total = sum(sum(counts) for counts in data.split_counts.values()) or data.test.num_pictures
    facts = [words.pictures(total), f"{len(data.classes):,} classes"]
    if data.model:
        facts.append(escape(data.model))
    return " \u00b7 ".join(facts)


def _answer(data: ReportData) -> str:
    """What was learnt, for someone who has never heard of a confidence interval."""
    test = data.test
    if test.num_pictures == 0:
        return '<div class="answer"><p class="say">There are no test pictures, so nothing can be said.</p></div>'
    low, high = test.accuracy_interval
    figure = f"{100 * test.accuracy:.1f}"
    left = [_badge(data), f'<p class="say">{_opening(data)}</p>']
    if comparison := _comparison(data):
        left.append(f"<p>{escape(words.verdict(comparison, 'the floor'))}</p>")
    left.append(f"<p>{_extremes(data)}</p>")
    if data.advice:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in data.advice)
        left.append(f'<div class="advice"><b>What would help</b><ul>{items}</ul></div>')
    right = [
        f'<div class="figure">{figure}<small>{words.NBSP}%</small></div>',
        f'<p class="figure-note">of {test.num_pictures:,} test pictures named right'
        f" (95{words.NBSP}% confidence: {words.percent(low)} to {words.percent(high)})</p>",
        _ten(test.accuracy),
        _bars(data),
    ]
    return f'<div class="answer"><div>{"".join(left)}</div><div class="card">{"".join(right)}</div></div>{_facts(data)}'


def _comparison(data: ReportData) -> Comparison | None:
    """With the strongest floor."""
    return data.floors[-1].comparison if data.floors else None


def _badge(data: ReportData) -> str:
    comparison = _comparison(data)
    if comparison is None:
        return ""
    kind, text = {
        "beat": ("good", "Beats the floor"),
        "no clear difference": ("open", "No clear difference from the floor"),
        "did not beat": ("bad", "Does not beat the floor"),
    }[comparison.verdict]
    return f'<span class="badge {kind}">{text}</span>'


def _opening(data: ReportData) -> str:
    test = data.test
    low, high = test.accuracy_interval
    sentences = [
        f"Shown a picture that it has never seen, this model picks the right one of {len(data.classes):,} classes for"
        f" <strong>{words.in_pictures(test.accuracy)}</strong> pictures. Measured once, on"
        f" {words.pictures(test.num_pictures)} kept aside, that is {words.percent(test.accuracy)}; on many more"
        f" pictures of the same kind it would lie between {words.percent(low, 0)} and {words.percent(high, 0)},"
        " with 95\u00a0% confidence."
    ]
    if data.floors:
        floors = " and ".join(
            f"{words.percent(floor.evaluation.accuracy)} ({escape(floor.name)})" for floor in data.floors
        )
        sentences.append(f"What needs no training at all, the floor, gets {floors}.")
    if words.rough(test):
        sentences.append(words.rough(test))
    return " ".join(sentences)


def _extremes(data: ReportData) -> str:
    found = words.best_and_worst(data.test)
    if found is None:
        return ""
    best, worst = found
    text = (
        f"It knows <b>{name(best.name)}</b> best ({words.percent(best.recall, 0)} found) and <b>{name(worst.name)}</b>"
        f" least ({words.percent(worst.recall, 0)})."
    )
    if data.test.confusions:
        label, prediction, count = data.test.confusions[0]
        text += (
            f" Its most frequent mistake: {name(data.classes[label])} called {name(data.classes[prediction])},"
            f" {count:,} {'time' if count == 1 else 'times'}."
        )
    return text


def _ten(share: float) -> str:
    filled = round(10 * share)
    tiles = "".join('<i class="on"></i>' if index < filled else "<i></i>" for index in range(10))
    return f'<div class="ten" role="img" aria-label="{filled} of 10 tiles filled">{tiles}</div>'


def _bars(data: ReportData) -> str:
    low, high = (100 * bound for bound in data.test.accuracy_interval)
    rows = [
        f"<div><dt><span>{escape(floor.name)}</span><span>{words.percent(floor.evaluation.accuracy)}</span></dt>"
        f'<dd><i style="width:{100 * floor.evaluation.accuracy:.1f}%"></i></dd></div>'
        for floor in data.floors
    ]
    rows.append(
        f'<div class="model"><dt><b>this model</b><b>{_percent(data)}</b></dt>'
        f'<dd><i style="width:{100 * data.test.accuracy:.1f}%"></i>'
        f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u></dd></div>'
    )
    return f'<dl class="bars">{"".join(rows)}</dl>'


def _facts(data: ReportData) -> str:
    test = data.test
    facts = [("balanced accuracy (all classes count the same)", words.percent(test.balanced_accuracy))]
    if test.top_5_accuracy is not None:
        facts.append(("right class among the first five", words.percent(test.top_5_accuracy)))
    if test.calibration is not None:
        error = words.percent(test.calibration.expected_calibration_error).replace("%", "points")
        facts.append(("stated probability is off by", error))
    if data.num_parameters is not None:
        facts.append(("learned numbers", f"{data.num_parameters / 1e6:,.2f}\u00a0million"))
    if data.durations:
        facts.append(("time in all", words.duration(sum(data.durations.values()))))
    cells = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in facts)
    return f'<dl class="facts">{cells}</dl>'
