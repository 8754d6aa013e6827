"""What two inspections of the same pictures differ in, as a table."""

from __future__ import annotations

import torch

from vitrail.report import words
from vitrail.report.exhibit import exhibit
from vitrail.report.markup import escape, name, picture
from vitrail.tasks.inspect import Inspection


def changes(before: Inspection, after: Inspection) -> str:
    """Answers, and how alike the two rollouts are, a row a picture; and what became of the distances."""
    rows = []
    listed: list[tuple[object, ...]] = [
        ("file", "answer before", "its probability", "answer after", "its probability", "rollouts alike")
    ]
    is_comparable = before.grid == after.grid
    for file in before.files:
        if file not in after.files:
            continue  # only one of the two could read it; its notes say so
        old, new = before.files.index(file), after.files.index(file)
        alike = "-"
        if is_comparable:
            pair = (before.rollout.maps[-1, old].flatten(), after.rollout.maps[-1, new].flatten())
            alike = f"{float(torch.corrcoef(torch.stack(pair))[0, 1]):.2f}" if len(pair[0]) > 1 else "-"
        rows.append(
            f"<tr><td>{picture(after.pictures[new], file, 56)}</td><td>{_answer(before, old)}</td>"
            f"<td>{_answer(after, new)}</td><td>{alike}</td></tr>"
        )
        listed.append((file, *_first(before, old), *_first(after, new), alike))
    far, farther = float(before.distance.pixels.mean()), float(after.distance.pixels.mean())
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of what changed"><table class="plain">'
        "<thead><tr>"
        '<th scope="col">picture</th><th scope="col">answer before</th><th scope="col">answer after</th>'
        f'<th scope="col">rollouts alike</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    return (
        f'<p class="lead">Before: {name(before.model)}. After: {name(after.model)}. Heads look {far:.1f} pixels far on'
        f" the average before, {farther:.1f} after. Rollouts alike: the correlation of the two maps, 1 where both"
        f" answers came from the same places.</p>{exhibit('change', table, listed)}"
    )


def _first(result: Inspection, index: int) -> tuple[object, object]:
    """The most probable class and its probability, as they stand in the table to take along."""
    if not result.answers[index]:
        return "", ""
    label, share = result.answers[index][0]
    return label, f"{share:.6f}"


def _answer(result: Inspection, index: int) -> str:
    if not result.answers[index]:
        return "no head"
    label, share = result.answers[index][0]
    return f"{name(label)} {escape(words.percent(share))}"
