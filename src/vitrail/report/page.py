"""The page: one self-contained HTML file that opens offline, in light and dark, on a wall or on a phone."""

from __future__ import annotations

from pathlib import Path

from vitrail.errors import RunError
from vitrail.evaluators.comparison import Comparison
from vitrail.report import sections, words
from vitrail.report.data import ReportData
from vitrail.report.markup import escape, name

# Nothing is fetched and nothing runs: the page holds names of classes and files, which others may have chosen.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_GLASS = (
    '<svg viewBox="0 0 26 26" aria-hidden="true">'
    '<rect x="1" y="1" width="11" height="15" rx="2" fill="var(--glass-1)"/>'
    '<rect x="14" y="1" width="11" height="8" rx="2" fill="var(--glass-3)"/>'
    '<rect x="14" y="11" width="11" height="14" rx="2" fill="var(--glass-4)"/>'
    '<rect x="1" y="18" width="5" height="7" rx="2" fill="var(--glass-2)"/>'
    '<rect x="8" y="18" width="4" height="7" rx="2" fill="var(--glass-5)"/></svg>'
)


def write_report(data: ReportData, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    try:
        path.write_text(render_report(data), encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunError(f"{path}: the report cannot be written ({error.strerror}); make room and try again") from error


def render_report(data: ReportData) -> str:
    """The whole page as one string; the same data gives the same page."""
    parts = [
        ("data", "The data", sections.data(data)),
        ("training", "Training", sections.training(data)),
        ("classes", "Class by class", sections.classes(data)),
        ("mistakes", "Mistakes", sections.mistakes(data)),
        ("confidence", "Confidence", sections.confidence(data)),
        ("use", "Use it", sections.usage(data)),
        ("making", "How it was made", sections.making(data)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in parts if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    bodies = "\n".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{title}</h2>\n{body}\n</section>'
        for anchor, title, body in shown
    )
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(data.title)} \u2013 {_percent(data)} \u2013 Vitrail report</title>
<style>
{style}</style>
</head>
<body>
<header>
<div class="brand">{_GLASS}<span><b>Vitrail</b> report</span></div>
<h1>{name(data.title)}</h1>
<p class="meta">{_meta(data)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{_answer(data)}
{bodies}
</main>
<footer><p>Made by Vitrail. This page is one file: nothing is loaded, nothing is sent, no script runs.</p></footer>
</body>
</html>
"""


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
