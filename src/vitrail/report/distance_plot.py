"""How far each head of each layer looks, as a plot."""

from __future__ import annotations

import numpy as np

from vitrail.report.exhibit import exhibit
from vitrail.report.plots import BOTTOM, LEFT, TALL, TOP, WIDE, Scale, round_ticks, svg, text

PAPER_PICTURES = 128  # that the paper averages over


def distance_plot(pixels: np.ndarray, even: float, definition: str, num_pictures: int) -> str:
    """Mean attention distance: what it is, a dot for each head of each layer, and the numbers to take along.

    Args:
        pixels: (layers, heads).
        even: pixels of a head that pays all patches the same.
        definition: as `inspection.distance.definition_of`, of these distances.
        num_pictures: that were averaged over.
    """
    depth, heads = pixels.shape
    rows = [
        ("layer", "head", "pixels"),
        *((layer + 1, head + 1, f"{pixels[layer, head]:.4f}") for layer in range(depth) for head in range(heads)),
    ]
    these = "and so does this" if num_pictures == PAPER_PICTURES else f"this over {num_pictures:,}"
    return (
        f'<p class="lead">Mean attention distance: {definition} The paper averages over {PAPER_PICTURES} pictures,'
        f" {these}. A head far below the dashed line looks at what is near; on it, at the whole picture alike.</p>"
        + exhibit("distance", f'<div class="two by-plot"><div class="card">{_dots(pixels, even)}</div></div>', rows)
    )


def _dots(pixels: np.ndarray, even: float) -> str:
    depth, heads = pixels.shape
    ticks = round_ticks(0.0, max(float(pixels.max()), even), 5)
    x_of, y_of = Scale(1, max(depth, 2), LEFT + 8, WIDE - 14), Scale(ticks[0], ticks[-1], TALL - BOTTOM - 8, TOP)
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, f"{tick:g} px" if tick == ticks[-1] else f"{tick:g}", "end"))
    for layer in range(0, depth, max(1, depth // 12)):
        parts.append(text(x_of(layer + 1), TALL - BOTTOM + 8, str(layer + 1), "middle"))
    parts.append(text((LEFT + WIDE) / 2, TALL - 4, "layer", "middle", "axis-text"))
    level = y_of(even)
    parts.append(f'<line class="floor" x1="{LEFT}" x2="{WIDE - 10}" y1="{level:.1f}" y2="{level:.1f}"/>')
    for layer, head in np.ndindex(depth, heads):
        x, y, far = x_of(layer + 1), y_of(float(pixels[layer, head])), f"{pixels[layer, head]:.1f} pixels"
        dot = f'<circle class="dot line-{head % 5}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        parts.append(
            f'<g data-layer="{layer}" data-head="{head}" data-far="{pixels[layer, head]:.1f}">'
            f"<title>layer {layer + 1}, head {head + 1}: {far}</title>{dot}</g>"
        )
    label = (
        f"Mean attention distance of {heads} heads in each of {depth} layers, {pixels.min():.1f} to {pixels.max():.1f}"
        f" pixels; the dashed line is {even:.1f}, that of a head that pays all patches the same"
    )
    return svg(WIDE, TALL, label, parts)
