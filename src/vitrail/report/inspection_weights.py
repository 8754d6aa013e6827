"""What the page of `inspect` shows of the model itself, without a picture."""

from __future__ import annotations

import numpy as np

from vitrail.report import words
from vitrail.report.exhibit import exhibit
from vitrail.report.tiles import coloured, sheet, tiles_image
from vitrail.tasks.inspect import Inspection

_MOST_TILES = 24  # of positions, in a row or column; of larger grids every second, third, ... is drawn
_MOST_ROWS = 50_000  # of the table of positions; of larger ones every second, third, ... patch is compared with all
_FILTER_COLUMNS = 7


def filters(result: Inspection) -> str:
    """The principal components of the patch embedding's filters."""
    if result.filters is None:
        return ""
    tiles = result.filters.tiles.numpy()
    if tiles.shape[-1] not in (1, 3):
        return f'<p class="lead">The filters have {tiles.shape[-1]} channels, which no picture can show.</p>'
    bytes_of = np.repeat((tiles * 255).round().astype(np.uint8), 3 if tiles.shape[-1] == 1 else 1, axis=-1)
    variance = result.filters.variance.numpy()
    image = tiles_image(sheet(bytes_of, _FILTER_COLUMNS), f"{len(tiles)} components of the embedding filters")
    rows = [("component", "share of variance"), *((n + 1, f"{share:.6f}") for n, share in enumerate(variance))]
    return (
        f'<p class="lead">The first {len(tiles)} principal components of the patch embedding\u2019s filters (figure 7,'
        f" left, of Dosovitskiy et al. 2021), each stretched by itself; together {words.percent(float(variance.sum()))}"
        " of the filters\u2019 variance. Waves and spots are what a trained model has; noise is what a fresh one"
        " has.</p>" + exhibit("filters", f'<div class="card narrow">{image}</div>', rows)
    )


def positions(result: Inspection) -> str:
    """How alike the position of each patch is to those of all others."""
    if result.similarity is None:
        return ""
    similarity = result.similarity
    height, width = similarity.shape[:2]
    step = -(-max(height, width) // _MOST_TILES)
    chosen = similarity[::step, ::step]
    rows, columns = chosen.shape[:2]
    tiles = coloured((chosen.reshape(-1, height, width) + 1) / 2)
    image = tiles_image(sheet(tiles, columns), f"Position similarity, {rows} by {columns} tiles")
    some = "" if step == 1 else f" Of {height} x {width} tiles every {step}. is drawn."
    count = height * width
    stride = -(-count * count // _MOST_ROWS)
    if stride > 1:
        some += f" In the table every {stride}. patch is compared with all."
    ys, xs = np.divmod(np.arange(count), width)
    listed = [
        ("row", "column", "other row", "other column", "cosine"),
        *(
            (ys[a], xs[a], ys[b], xs[b], f"{similarity[ys[a], xs[a], ys[b], xs[b]]:.6f}")
            for a in range(0, count, stride)
            for b in range(count)
        ),
    ]
    return (
        '<p class="lead">A tile for each patch: the cosine similarity of its position with those of all others, from -1'
        f" (dark) to 1 (bright) (figure 7, centre, of Dosovitskiy et al. 2021).{some} Where a tile is brightest at its"
        " own place and along its row and column, the model has learnt the grid.</p>"
        + exhibit("positions", f'<div class="card narrow">{image}</div>', listed)
    )
