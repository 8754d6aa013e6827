"""Small hand-written SVG plots: their colours are the page's CSS variables, so they follow light and dark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vitrail.evaluators.calibration import ReliabilityBins
from vitrail.report.document import PALETTE, STYLE
from vitrail.report.markup import escape

# Units are those of the page at its usual width: text of 11 stays readable, because no plot is drawn wider than this.
WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 30
WIDE, TALL = 420, 290  # of a plot with a card to itself
MAX_POINTS = 240
NUM_COLOURS = 5  # of lines in one plot: line-0 to line-4 of the style

Format = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """A linear map from values to positions on the page, with round ticks."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = 0.5 if span == 0 else (value - self.low) / span
        return self.first + share * (self.last - self.first)

    def ticks(self, num: int) -> list[float]:
        return [tick for tick in round_ticks(self.low, self.high, num) if self.low <= tick <= self.high * (1 + 1e-9)]


def round_ticks(low: float, high: float, num: int) -> list[float]:
    """About `num` values of 1, 2 or 5 times a power of ten from below `low` to above `high`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / num
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points: means of equal runs, so that a noisy curve keeps its level."""
    if len(points) <= limit:
        return list(points)
    bounds = [round(index * len(points) / limit) for index in range(limit + 1)]
    runs = [points[start:end] for start, end in itertools.pairwise(bounds)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def line_plot(
    points: Sequence[tuple[float, float]],
    *,
    label: str,
    x_label: str,
    y_format: Format,
    css_class: str,
    floor: tuple[float, str] | None = None,
    mark: tuple[float, float, str] | None = None,
    from_zero: bool = False,
) -> str:
    """One curve over the course of training.

    Args:
        points: (x, y), finite, x ascending; one at least.
        label: read aloud in place of the plot.
        floor: (y, text) of a horizontal line to stay above.
        mark: (x, y, text) of a point to point out.
        from_zero: start the vertical axis at 0.
    """
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + ([floor[0]] if floor else []) + ([mark[1]] if mark else [])
    ticks = round_ticks(0.0 if from_zero else min(ys), max(ys), 4)
    begin = 0.0 if 0 <= min(xs) < 0.1 * max(xs) else min(xs)
    x_scale = Scale(begin, max(xs), LEFT, WIDTH - RIGHT)
    y_scale = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_scale, y_scale, x_label, lambda value: f"{value:,g}", y_format)]
    if floor:
        y = y_scale(floor[0])
        # Above the line in the right half, where a curve that learns has left it behind.
        parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(WIDTH - RIGHT - 2, y - 5, floor[1], "end", "floor-text"))
    path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in thin(points))
    if len(points) == 1:
        parts.append(
            f'<circle class="dot {css_class}" cx="{x_scale(xs[0]):.1f}" cy="{y_scale(points[0][1]):.1f}" r="3"/>'
        )
    else:
        parts.append(f'<polyline class="curve {css_class}" points="{path}"/>')
    if mark:
        x, y = x_scale(mark[0]), y_scale(mark[1])
        anchor = "end" if x > WIDTH * 0.6 else "start"
        shift = -8 if anchor == "end" else 8
        below = y < TOP + 14
        parts.append(f'<circle class="mark {css_class}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(text(x + shift, y + (18 if below else -9), mark[2], anchor, "mark-text"))
    return svg(WIDTH, HEIGHT, label, parts)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from below `low` to above `high`, both above 0."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max((value for value in values if value <= low * (1 + 1e-9)), default=values[0])
    last = min((value for value in values if value >= high * (1 - 1e-9)), default=values[-1])
    return [value for value in values if first <= value <= last]


def lines_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    label: str,
    x_label: str,
    x_format: Format,
    y_format: Format,
    floor: tuple[float, str],
) -> str:
    """A line for each name through its means, over a logarithmic axis; a dot for every point.

    Args:
        lines: name -> (x, y), x above 0; points of (nearly) one x, in a row, are repetitions.
        label, floor: as in `line_plot`.
    """
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points] + [floor[0]]
    right = 10 + 7.2 * max(map(len, lines))
    x_ticks, y_ticks = log_ticks(min(xs), max(xs)), round_ticks(min(ys), max(ys), 5)
    x_scale = Scale(math.log10(x_ticks[0]), math.log10(x_ticks[-1]), LEFT, WIDE - right)
    y_scale = Scale(y_ticks[0], y_ticks[-1], TALL - BOTTOM - 8, TOP)
    parts = []
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, y_format(tick), "end"))
    parts += [text(x_scale(math.log10(tick)), TALL - BOTTOM + 8, x_format(tick), "middle") for tick in x_ticks]
    parts.append(text((LEFT + WIDE - right) / 2, TALL - 4, x_label, "middle", "axis-text"))
    y = y_scale(floor[0])
    parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDE - right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(text(WIDE - right - 2, y - 5, floor[1], "end", "floor-text"))
    ends = {}
    for number, (name, points) in enumerate(lines.items()):
        dots = [(x_scale(math.log10(x)), y_scale(y)) for x, y in points]
        means = [_mean(list(group)) for _, group in itertools.groupby(sorted(dots), key=lambda dot: round(dot[0]))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in means)
        kind = f"line-{number % NUM_COLOURS}"
        parts.append(f'<polyline class="curve {kind}" points="{path}"/>')
        parts += [f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
        ends[name] = means[-1][1]
    for name, y in apart(ends, TALL - BOTTOM).items():
        parts.append(text(WIDE - right + 8, y + 4, name, "start", "mark-text"))
    return svg(WIDE, TALL, label, parts)


def _mean(dots: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in dots) / len(dots), sum(y for _, y in dots) / len(dots)


def apart(heights: Mapping[str, float], lowest: float, gap: float = 13.0) -> dict[str, float]:
    """Heights of labels, each at least `gap` below the one before, and none below `lowest` while there is room."""
    names = sorted(heights, key=lambda name: heights[name])
    placed: dict[str, float] = {}
    for name in names:
        placed[name] = max(heights[name], max(placed.values(), default=-math.inf) + gap)
    for number, name in enumerate(reversed(names)):
        placed[name] = min(placed[name], lowest - number * gap)
    return placed


def reliability_plot(bins: ReliabilityBins, label: str) -> str:
    """How often answers of each confidence are right: bars on the line are right, above it too shy, below too sure."""
    height, histogram = 300, 46
    x_scale = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    y_scale = Scale(0.0, 1.0, height - BOTTOM - histogram - 8, TOP)
    base = y_scale(0.0)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = y_scale(tick), x_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, f"{tick:.0%}", "end"))
        parts.append(text(x, height - BOTTOM + 14, f"{tick:.0%}", "end" if tick == 1.0 else "middle"))
    most = max(1, int(bins.counts.max()))
    for low, high, count, accuracy in zip(
        bins.edges[:-1].tolist(), bins.edges[1:].tolist(), bins.counts.tolist(), bins.accuracy.tolist(), strict=True
    ):
        if count == 0:
            continue
        x, width = x_scale(low) + 1, x_scale(high) - x_scale(low) - 2
        size = max(1.5, (histogram - 6) * count / most)
        parts.append(_bar("bar", x, base, width, max(base - y_scale(accuracy), 1.5)))
        parts.append(_bar("count", x, height - BOTTOM, width, size))
    parts.append(f'<line class="diagonal" x1="{LEFT}" y1="{base:.1f}" x2="{WIDTH - RIGHT}" y2="{y_scale(1.0):.1f}"/>')
    parts.append(text(LEFT + 6, TOP + 10, "share that is right", "start", "axis-text"))
    parts.append(text(LEFT + 6, height - BOTTOM - histogram + 6, "pictures", "start", "axis-text"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, height - 2, "confidence of the answer", "middle", "axis-text"))
    return svg(WIDTH, height, label, parts)


def _axes(x_scale: Scale, y_scale: Scale, x_label: str, x_format: Format, y_format: Format) -> str:
    parts = []
    for tick in round_ticks(y_scale.low, y_scale.high, 4):
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, y_format(tick), "end"))
    for tick in x_scale.ticks(5):
        parts.append(text(x_scale(tick), HEIGHT - BOTTOM + 14, x_format(tick), "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2, x_label, "middle", "axis-text"))
    return "".join(parts)


def text(x: float, y: float, words: str, anchor: str, css_class: str = "") -> str:
    """Words at a place; `anchor`, "start", "middle" or "end", says which part of them is there."""
    kind = f' class="{css_class}"' if css_class else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _bar(css_class: str, x: float, base: float, width: float, size: float) -> str:
    return (
        f'<rect class="{css_class}" x="{x:.1f}" y="{base - size:.1f}" width="{width:.1f}" height="{size:.1f}" rx="1"/>'
    )


def svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    """The whole plot; `label` is read aloud in its place."""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def standalone(plot: str) -> str:
    """A plot as a file of its own, on a card of the page, in its colours, light and dark."""
    palette, style = (path.read_text(encoding="utf-8") for path in (PALETTE, STYLE))
    rules = [line for line in style.splitlines() if line.startswith("svg ")]
    font = "svg { font-family: system-ui, sans-serif; font-variant-numeric: tabular-nums; }"
    card = '<rect width="100%" height="100%" rx="8" style="fill: var(--card)"/>'
    head, body = plot.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return "\n".join([f"{head}>", "<style>", palette.strip(), font, *rules, "</style>", f"{card}{body}", ""])
