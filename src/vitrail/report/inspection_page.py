"""The page of `inspect`: what one model looks at in some pictures, or two models beside each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from vitrail.report import words
from vitrail.report.document import document, in_sections, write_document
from vitrail.report.inspection_change import changes
from vitrail.report.inspection_heads import distances, heads
from vitrail.report.inspection_nearest import nearest_pictures
from vitrail.report.inspection_pictures import colours, depths, rollouts
from vitrail.report.inspection_shifts import shifts
from vitrail.report.inspection_weights import filters, positions
from vitrail.report.markup import escape, name
from vitrail.tasks.inspect import Inspection


def write_inspection_page(results: Sequence[Inspection], path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    write_document(render_inspection(*results), path)


def render_inspection(*results: Inspection) -> str:
    """The whole page as one string: nothing is loaded; its script adds what needs one, and leaves the rest as it is.

    Args:
        results: of one model, or of one before and after something was done to it, on the same pictures.
    """
    sections: list[tuple[str, str, Callable[[Inspection], str]]] = [
        ("pictures", "What each picture's answer came from", rollouts),
        ("nearest", "The training pictures most like it", nearest_pictures),
        ("heads", "Where each head looks", heads),
        ("distance", "How far each head looks", distances),
        ("depths", "What each depth would answer", depths),
        ("colours", "Which patches are alike to it", colours),
        ("shifts", "What a shift changes", shifts),
        ("filters", "What a patch is looked at with", filters),
        ("positions", "What it has learnt of places", positions),
        ("notes", "Left out", _notes),
    ]
    bodies_of = [
        (anchor, title, _side_by_side([view(result) for result in results])) for anchor, title, view in sections
    ]
    if len(results) == 2:
        bodies_of.insert(0, ("change", "What changed", changes(*results)))
    title = " and ".join(result.model for result in results)
    result = results[0]
    meta = " \u00b7 after: ".join(escape(one.variant) for one in results)
    links, bodies = in_sections(bodies_of)
    header = f"""<h1>{name(title)}</h1>
<p class="meta">{meta} \u00b7 {words.pictures(len(result.files))}</p>
{links}"""
    script = Path(__file__).with_name("inspection.js").read_text(encoding="utf-8")
    return document(title, "inspection", header, bodies, script)


def _side_by_side(bodies: Sequence[str]) -> str:
    """One model's section as it is; two models' beside each other, under one lead where theirs say the same."""
    if not any(bodies):
        return ""
    if len(bodies) == 1:
        return f'<div data-model="0">{bodies[0]}</div>'
    leads, rests = zip(*(_lead_and_rest(body) for body in bodies), strict=True)
    is_shared = len(set(leads)) == 1
    columns = "".join(
        f'<div data-model="{number}"><h3>{word}</h3>{"" if is_shared else lead}'
        + _renamed(rest or "<p>This model has none.</p>", word)
        + "</div>"
        for number, (word, lead, rest) in enumerate(zip(("Before", "After"), leads, rests, strict=True))
    )
    return f'{leads[0] if is_shared else ""}<div class="pair">{columns}</div>'


def _renamed(body: str, word: str) -> str:
    """The same, with names of its own for files to take along, and for regions, which screen readers list."""
    body = re.sub(r'(?<= )(download|data-save)="', rf'\1="{word.lower()}-', body)
    return re.sub(r'(?<= role="region" aria-label=")', f"{word}: ", body)


def _lead_and_rest(body: str) -> tuple[str, str]:
    """The paragraph that a section begins with, and what follows."""
    if not body.startswith('<p class="lead">'):
        return "", body
    lead, end, rest = body.partition("</p>")
    return lead + end, rest


def _notes(result: Inspection) -> str:
    notes = [*result.missing, *(f"{file}: {message}" for file, message in result.broken)]
    if result.left_out:
        notes.append(f"{words.pictures(result.left_out)} after the first {len(result.files) + len(result.broken)}")
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
