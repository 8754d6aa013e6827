"""The plots of growth.json: what a picture costs and the memory it takes, by batch, pixels, model and threads.

Both axes of every panel are logarithmic, so that equal factors look equal and growth in proportion is a straight line.
`python -m benchmarks.growth_plots` draws them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import FOLDER
from vitrail.report.plots import Scale, apart, log_ticks, standalone, svg, text

WIDTH, HEIGHT = 800, 372
LEFT, RIGHT, TOP, BOTTOM = 46, 64, 112, 56  # around a panel, which has half the width
HINT = 15  # from one line of a hint to the next
NAMES = {
    ("inference", "float32"): "inference, float32",
    ("inference", "bfloat16"): "inference, bfloat16",
    ("update", "bfloat16"): "training step, bfloat16",
}
FLAT, SQUARE = 0.95, 1.1  # of the best speed; times the proportional cost

Found = dict[str, Any]  # a point of growth.json
Line = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: of what goes up, with its unit.
        hints: lines that say what is dashed, ringed, and written at the ends.
        lines: name -> (x, y), both above 0, x ascending.
        dashed, rings, ends: by the same names; a dashed line is given by two points.
    """

    title: str
    hints: Sequence[str]
    lines: Mapping[str, Line]
    dashed: Mapping[str, Line] = field(default_factory=dict)
    rings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)


def draw(file: Path) -> list[Path]:
    """One file for each thing that varies, beside growth.json; none where the system does not tell memory."""
    kept = json.loads(file.read_bytes())
    points = [point for point in kept["points"] if "error" not in point and point["peak_mib"]]
    machine = kept["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {kept['date']}"
    drawn = {"batch": _by_batch, "pixels": _by_pixels, "model": _by_model, "threads": _by_threads}
    files = []
    for name, make in drawn.items():
        if len({point[name] for point in points}) > 1:
            files.append(file.with_name(f"growth-{name}.svg"))
            files[-1].write_text(standalone(make(_only(points, name), where)), encoding="utf-8", newline="\n")
    return files


def _only(points: Sequence[Found], varies: str) -> list[Found]:
    """Those that are in the middle in everything but one thing."""
    middle = {
        "model": "ViT-Ti/16",
        "pixels": 224,
        "batch": 8,
        "threads": max(point["threads"] for point in points),
    }
    return [point for point in points if all(point[name] == value for name, value in middle.items() if name != varies)]


def _lines(points: Sequence[Found], x: str, y: Callable[[Found], float]) -> dict[str, Line]:
    found = {
        name: sorted((point[x], y(point)) for point in points if (point["work"], point["precision"]) == key)
        for key, name in NAMES.items()
    }
    return {name: line for name, line in found.items() if line}


def _speed(point: Found) -> float:
    return float(point["batch"] / point["seconds"])


def _cost(point: Found) -> float:
    """Milliseconds a picture."""
    return 1000 / _speed(point)


def _memory(point: Found) -> float:
    return float(point["peak_mib"])


def _proportional(line: Line) -> Line:
    """The line through 0 that the points stay above."""
    slope = min(y / x for x, y in line)
    return [(x, slope * x) for x in (line[0][0], line[-1][0])]


def _above(line: Line, dashed: Line) -> float:
    """How many times as high it ends as the dashed line."""
    return line[-1][1] / dashed[-1][1]


def _by_batch(points: Sequence[Found], where: str) -> str:
    speeds, memory = _lines(points, "batch", _speed), _lines(points, "batch", _memory)
    fastest = {name: max(y for _, y in line) for name, line in speeds.items()}
    return _figure(
        "Batch", f"ViT-Ti/16 at 224 pixels; {where}", "pictures in a batch", _ticks(points, "batch"),
        Panel(
            "pictures a second",
            ["dashed: as fast as one by one; at the end: the best beside that",
             f"ring: the smallest batch within {100 * (1 - FLAT):.0f} % of the best"],
            speeds,
            {name: [(x, line[0][1]) for x in (line[0][0], line[-1][0])] for name, line in speeds.items()},
            {name: next(point for point in line if point[1] >= FLAT * fastest[name]) for name, line in speeds.items()},
            {name: f"{fastest[name] / line[0][1]:.1f}×" for name, line in speeds.items()},
        ),
        Panel(
            "peak memory, MiB over the bare imports",
            ["dashed: in proportion to the batch", "at the end: MiB that one more picture takes"],
            memory,
            {name: _proportional(line) for name, line in memory.items()},
            {},
            {name: f"+{_slope(line):.1f}" for name, line in memory.items()},
        ),
    )  # fmt: skip


def _slope(line: Line) -> float:
    (x, y), (last_x, last_y) = line[-2:] if len(line) > 1 else [(0.0, 0.0), line[0]]
    return (last_y - y) / (last_x - x)


def _by_pixels(points: Sequence[Found], where: str) -> str:
    costs, memory = _lines(points, "tokens", _cost), _lines(points, "tokens", _memory)
    dashed = {name: _proportional(line) for name, line in costs.items()}
    below = {name: _proportional(line) for name, line in memory.items()}
    ticks = {point["tokens"]: (str(point["pixels"]), str(point["tokens"])) for point in points}
    return _figure(
        "Pixels", f"ViT-Ti/16, batch 8; {where}", "pixels a side, and tokens that they make", ticks,
        Panel(
            "milliseconds a picture",
            ["dashed: in proportion to the tokens; at the end: times it",
             f"ring: from here on a token costs {100 * (SQUARE - 1):.0f} % more than the cheapest"],
            costs,
            dashed,
            {name: ring for name, line in costs.items() if (ring := _dearer(line))},
            {name: f"{_above(line, dashed[name]):.1f}×" for name, line in costs.items()},
        ),
        Panel(
            "peak memory, MiB over the bare imports",
            ["dashed: in proportion to the tokens", "at the end: times the dashed line"],
            memory,
            below,
            {},
            {name: f"{_above(line, below[name]):.1f}×" for name, line in memory.items()},
        ),
    )  # fmt: skip


def _dearer(line: Line) -> tuple[float, float] | None:
    """The first point behind the cheapest from which on each costs more than in proportion."""
    cheapest = min(y / x for x, y in line)
    first = None
    for x, y in reversed(line):
        if y / x < SQUARE * cheapest:
            break
        first = (x, y)
    return first


def _by_model(points: Sequence[Found], where: str) -> str:
    costs, memory = _lines(points, "macs", _cost), _lines(points, "macs", _memory)
    largest = {name: line[-1] for name, line in costs.items()}
    weights = sorted({(point["macs"], 4 * point["parameters"] / 2**20) for point in points})
    ticks = {point["macs"]: (point["model"].removeprefix("ViT-"), f"{point['macs'] / 1e9:.1f}") for point in points}
    return _figure(
        "Model", f"224 pixels, batch 8; {where}", "ViT-..., and thousand million multiply-adds a picture", ticks,
        Panel(
            "milliseconds a picture",
            ["dashed: in proportion to the multiply-adds",
             "at the end: thousand million of them a second"],
            costs,
            {name: _proportional(line) for name, line in costs.items()},
            {},
            {name: f"{x / 1e6 / y:,.0f}" for name, (x, y) in largest.items()},
        ),
        Panel(
            "peak memory, MiB over the bare imports",
            ["dashed, grey: the weights alone in float32", "at the end: times the dashed line"],
            memory,
            {"": weights},
            {},
            {name: f"{line[-1][1] / dict(weights)[line[-1][0]]:.1f}×" for name, line in memory.items()},
        ),
    )  # fmt: skip


def _by_threads(points: Sequence[Found], where: str) -> str:
    speeds, memory = _lines(points, "threads", _speed), _lines(points, "threads", _memory)
    return _figure(
        "Threads", f"ViT-Ti/16 at 224 pixels, batch 8; {where}", "threads", _ticks(points, "threads"),
        Panel(
            "pictures a second",
            ["dashed: in proportion to the threads", "at the end: times one thread"],
            speeds,
            {name: [(line[0][0], line[0][1]), (line[-1][0], line[0][1] * line[-1][0] / line[0][0])]
             for name, line in speeds.items()},
            {},
            {name: f"{line[-1][1] / line[0][1]:.2f}×" for name, line in speeds.items()},
        ),
        Panel("peak memory, MiB over the bare imports", [], memory),
    )  # fmt: skip


def _ticks(points: Sequence[Found], name: str) -> dict[float, tuple[str, ...]]:
    return {point[name]: (str(point[name]),) for point in points}


def _figure(title: str, subtitle: str, x_label: str, ticks: Mapping[float, tuple[str, ...]], *panels: Panel) -> str:
    parts = [text(LEFT, 22, title, "start", "mark-text"), text(LEFT + 8 * len(title) + 8, 22, subtitle, "start")]
    x = float(LEFT)
    for number, name in enumerate(NAMES.values()):
        parts.append(f'<polyline class="curve line-{number}" points="{_path([(x, 40), (x + 24, 40)])}"/>')
        parts.append(_dot(number, x + 12, 40))
        parts.append(text(x + 32, 44, name, "start"))
        x += 60 + 6.2 * len(name)
    for number, panel in enumerate(panels):
        parts += _panel(panel, number * WIDTH / 2, x_label, ticks)
    said = f"{title}: {'; '.join(panel.title for panel in panels)} by {x_label}. {subtitle}"
    return svg(WIDTH, HEIGHT, said, parts)


def _panel(panel: Panel, left: float, x_label: str, ticks: Mapping[float, tuple[str, ...]]) -> list[str]:
    first, last, base = left + LEFT, left + WIDTH / 2 - RIGHT, HEIGHT - BOTTOM
    ys = [y for line in panel.lines.values() for _, y in line]
    y_ticks = log_ticks(min(ys), max(ys))
    x_of = Scale(math.log10(min(ticks)), math.log10(max(ticks)), first + 8, last - 4)
    y_of = Scale(math.log10(y_ticks[0]), math.log10(y_ticks[-1]), base, TOP)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return x_of(math.log10(point[0])), y_of(math.log10(point[1]))

    parts = [text(first, 68, panel.title, "start", "mark-text")]
    parts += [text(first, 68 + HINT * (number + 1), hint, "start") for number, hint in enumerate(panel.hints)]
    for tick in y_ticks:
        y = y_of(math.log10(tick))
        parts.append(f'<line class="grid" x1="{first}" x2="{last}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(first - 6, y + 4, f"{tick:,g}", "end"))
    written = -math.inf
    for x, names in sorted(ticks.items()):
        if place((x, y_ticks[0]))[0] - written < 26:
            continue  # it would run into the one before
        written = place((x, y_ticks[0]))[0]
        parts += [
            text(place((x, y_ticks[0]))[0], base + 15 + 13 * row, name, "middle") for row, name in enumerate(names)
        ]
    below = base + 21 + 13 * max(map(len, ticks.values()))
    parts.append(text((first + last) / 2, below, x_label, "middle", "axis-text"))
    # What is dashed may leave the axes, and is cut there.
    clip = f"clip-{left:.0f}"
    parts.append(
        f'<clipPath id="{clip}"><rect x="{first}" y="{TOP}" width="{last - first}" height="{base - TOP}"/></clipPath>'
    )
    for name, line in panel.dashed.items():
        kind = f"line-{list(NAMES.values()).index(name)}" if name else "floor"
        parts.append(
            f'<polyline class="proportion {kind}" clip-path="url(#{clip})" points="{_path(map(place, line))}"/>'
        )
    heights = {name: place(panel.lines[name][-1])[1] for name in panel.ends}
    ends = apart(heights, base)
    for number, name in enumerate(NAMES.values()):
        if name not in panel.lines:
            continue
        dots = [place(point) for point in panel.lines[name]]
        parts.append(f'<polyline class="curve line-{number}" points="{_path(dots)}"/>')
        parts += [_dot(number, x, y) for x, y in dots]
        if name in panel.rings:
            x, y = place(panel.rings[name])
            parts.append(f'<circle class="curve line-{number}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
        if name in panel.ends:
            y = ends[name]
            parts += [_dot(number, last + 12, y), text(last + 20, y + 4, panel.ends[name], "start", "mark-text")]
    return parts


def _path(dots: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)


def _dot(number: int, x: float, y: float) -> str:
    """A shape for each line, for those who do not see its colour: circle, square, diamond."""
    if number == 0:
        return f'<circle class="dot line-0" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if number == 2 else ""
    return f'<rect class="dot line-{number}" x="{x - 2.8:.1f}" y="{y - 2.8:.1f}" width="5.6" height="5.6"{turned}/>'


if __name__ == "__main__":
    print(*draw(FOLDER / "growth.json"), sep="\n")
