"""What the page of `inspect` shows of each head: where it looks, and how far. The script connects the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitrail.inspection.distance import definition_of
from vitrail.report.distance_plot import distance_plot
from vitrail.report.exhibit import exhibit
from vitrail.report.inspection_pictures import LARGE
from vitrail.report.markup import escape, name, picture
from vitrail.report.tiles import coloured, sheet, tiles_image
from vitrail.tasks.inspect import Inspection

_TILE = 72  # pixels of a head's tile at most


def heads(result: Inspection) -> str:
    """All layers and heads of each picture as small multiples."""
    who = "the class token pays" if result.maps[-1].source == "class token" else "the patches on the average pay"
    blocks = "".join(_block(result, index) for index in range(len(result.files)))
    return (
        f'<p class="lead">How much attention {who} each patch, a tile for each head; each tile by its own largest'
        " value. Entropy, in nats, says how widely a layer's tokens look on the average: 0 is one token,"
        f" {np.log(result.grid[0] * result.grid[1]):.2f} all patches alike. The weights to take along are those of the"
        " last layer.</p>"
        + exhibit(
            "attention", f"<div>{blocks}</div>", list(_weight_rows(result)), [("entropy", list(_entropy_rows(result)))]
        )
    )


def _block(result: Inspection, index: int) -> str:
    """One picture, and beside it a row of tiles for each layer."""
    file, count = result.files[index], result.maps[0].weights.shape[1]
    rows = []
    for one in result.maps:
        weights = one.weights[index].numpy()
        weights = weights / weights.max((1, 2), keepdims=True).clip(1e-30)
        label = f"{file}: layer {one.layer + 1}, heads 1 to {count} from left to right"
        image = tiles_image(sheet(coloured(weights), count), label)
        nats = one.entropy[index].tolist()
        rows.append(
            f'<tr data-entropy="{" ".join(f"{value:.2f}" for value in nats)}"><th scope="row">{one.layer + 1}</th>'
            f'<td><div class="sheet" style="max-width:{count * _TILE}px">{image}</div></td>'
            f"<td>{sum(nats) / count:.2f}</td></tr>"
        )
    shown = picture(result.pictures[index], file, LARGE)
    return (
        f"<details{' open' if index == 0 else ''}><summary>{name(Path(file).name)}</summary><div>"
        f'<div class="two by-size"><figure class="view"><div class="stage">{shown}</div>'
        "<figcaption><span>as the model sees it</span></figcaption></figure>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Heads of {escape(file)}">'
        '<table class="plain heads">'
        f'<thead><tr><th scope="col">layer</th><th scope="col">heads 1 to {count}</th>'
        f'<th scope="col">entropy</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></div></div>'
        "</details>"
    )


def _weight_rows(result: Inspection) -> Iterator[tuple[object, ...]]:
    """Of the last layer; all of them would make the page several times as large."""
    yield "file", "layer", "head", "row", "column", "weight"
    last = result.maps[-1]
    for index, file in enumerate(result.files):
        for head, weights in enumerate(last.weights[index].numpy()):
            for (row, column), weight in np.ndenumerate(weights):
                yield file, last.layer + 1, head + 1, row + 1, column + 1, f"{weight:.3e}"


def _entropy_rows(result: Inspection) -> Iterator[tuple[object, ...]]:
    yield "file", "layer", "head", "nats"
    for index, file in enumerate(result.files):
        for one in result.maps:
            for head, nats in enumerate(one.entropy[index].tolist()):
                yield file, one.layer + 1, head + 1, f"{nats:.4f}"


def distances(result: Inspection) -> str:
    """Mean attention distance: a dot for each head over its layer."""
    definition = definition_of(result.distance, result.num_prefix_tokens)
    return distance_plot(result.distance.pixels.numpy(), result.distance.even, definition, len(result.files))
