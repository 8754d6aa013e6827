"""What the page of `inspect` shows of shifts: how much answer and features change, beside another model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from vitrail.inspection.shift import ShiftResponse
from vitrail.report import words
from vitrail.report.exhibit import exhibit
from vitrail.report.markup import name
from vitrail.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Format, Scale, round_ticks, svg, text
from vitrail.tasks.inspect import Inspection

_TOP = TOP + 10  # room for the name of the lines of patches


@dataclass(frozen=True)
class _Curve:
    """One model's response; `wide` is the width in pixels of what it sees."""

    model: str
    wide: int
    response: ShiftResponse
    css_class: str


def shifts(result: Inspection) -> str:
    """Two plots, of the answers and of the features; a curve for each model."""
    if result.shifts is None:
        return ""
    curves = [_Curve(result.model, result.image_size[1], result.shifts, "line-0")]
    if result.beside is not None:
        beside = result.beside
        curves.append(_Curve(beside.model, beside.image_size[1], beside.shifts, "line-1"))
    patch = result.image_size[1] // result.grid[1]
    figures = [
        _figure("moved", curves, patch, "The answer", "how much of the probability goes to other classes", _as_percent),
        _figure("turned", curves, patch, "The features", "cosine distance of what the head sees", "{:.3g}".format),
    ]
    body = f'<div class="card">{_legend(curves)}<div class="grid plots">{"".join(figures)}</div></div>'
    return (
        '<p class="lead">How much changes when the picture moves to the right, its edge repeated, averaged over'
        f" {words.pictures(_num_pictures(result.shifts))}. Of the answer, half the sum of the differences of the"
        " probabilities; of the features before the head, the cosine distance, 0 where they point the same way. Fine"
        f" lines stand at whole patches of {patch} pixels: a dip there says that the model sees patches rather than"
        f" places.{_scaling(result)}</p>" + exhibit("shifts", body, list(_rows(result, curves)))
    )


def _scaling(result: Inspection) -> str:
    """What to know where the other model sees another size."""
    beside = result.beside
    if beside is None or beside.image_size == result.image_size:
        return ""
    (height, width), (other_height, other_width) = result.image_size, beside.image_size
    return (
        f" The two see the pictures at different sizes, {name(result.model)} {height} x {width} pixels and"
        f" {name(beside.model)} {other_height} x {other_width}: the other is asked at whole pixels of its own, and"
        f" drawn at the same share of the width, {other_width / width:.3g} of its pixels for each one of the axis."
    )


def _legend(curves: Sequence[_Curve]) -> str:
    items = []
    for curve in curves:
        swatch = f'<line class="curve {curve.css_class}" x1="1" x2="27" y1="5" y2="5"/>'
        same = curve.response.same
        stays = (
            "" if same is None else f": the same answer in {words.percent(float(same.double().mean()))} of the cases"
        )
        items.append(f'<li><svg viewBox="0 0 28 10" aria-hidden="true">{swatch}</svg>{name(curve.model)}{stays}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _figure(
    what: Literal["moved", "turned"], curves: Sequence[_Curve], patch: int, title: str, unit: str, y_format: Format
) -> str:
    """One plot; nothing where no model has what it shows."""
    lines = []
    for curve in curves:
        values = getattr(curve.response, what)
        if values is not None:
            xs = [shift * curves[0].wide / curve.wide for shift in curve.response.shifts]
            lines.append((curve.css_class, [(0.0, 0.0), *zip(xs, values.mean(1).tolist(), strict=True)]))
    if not lines:
        return ""
    plot = _plot(lines, patch, f"{title}: {unit}, at shifts of 0 to {curves[0].response.shifts[-1]} pixels", y_format)
    return f"<figure><figcaption>{title}<span>{unit}</span></figcaption>{plot}</figure>"


def _plot(lines: Sequence[tuple[str, list[tuple[float, float]]]], patch: int, label: str, y_format: Format) -> str:
    reach = max(x for _, points in lines for x, _ in points)
    ticks = round_ticks(0.0, max(y for _, points in lines for _, y in points), 4)
    x_of, y_of = Scale(0.0, reach, LEFT, WIDTH - RIGHT), Scale(0.0, ticks[-1] or 1.0, HEIGHT - BOTTOM, _TOP)
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, y_format(tick), "end"))
    for place in range(patch, int(reach) + 1, patch):
        x = x_of(place)
        parts.append(f'<line class="period" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - BOTTOM}"/>')
    if patch <= reach:
        parts.append(text(x_of(patch), _TOP - 5, "a patch", "end" if x_of(patch) > WIDTH - 40 else "middle"))
    parts += [text(x_of(tick), HEIGHT - BOTTOM + 14, f"{tick:g}", "middle") for tick in x_of.ticks(5)]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT, "shift to the right in pixels", "middle", "axis-text"))
    for css_class, points in lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="curve {css_class}" points="{path}"/>')
        parts += [
            f'<circle class="dot {css_class}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2"/>' for x, y in points[1:]
        ]
    return svg(WIDTH, HEIGHT + 4, label, parts)


def _rows(result: Inspection, curves: Sequence[_Curve]) -> Iterator[tuple[object, ...]]:
    yield (
        "model",
        "shift in its pixels",
        "share of the width",
        "file",
        "answer moved",
        "same answer",
        "feature distance",
    )
    for curve in curves:
        response = curve.response
        for place, index in np.ndindex(len(response.shifts), _num_pictures(response)):
            shift = response.shifts[place]
            values = (_cell(values, place, index) for values in (response.moved, response.same, response.turned))
            yield curve.model, shift, f"{shift / curve.wide:.6f}", result.files[index], *values


def _num_pictures(response: ShiftResponse) -> int:
    shown = response.turned if response.moved is None else response.moved
    return 0 if shown is None else shown.shape[1]


def _cell(values: Tensor | None, place: int, index: int) -> str:
    if values is None:
        return ""
    value = values[place, index].item()
    return f"{value:.6f}" if isinstance(value, float) else str(int(value))


def _as_percent(value: float) -> str:
    return f"{100 * value:.3g} %"
