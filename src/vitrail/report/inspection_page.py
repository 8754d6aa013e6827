"""The page of `inspect`: filters, positions, distances, and each head's look at each picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.errors import RunError
from vitrail.inspection.distance import DEFINITION
from vitrail.report import words
from vitrail.report.markup import escape, name, picture
from vitrail.report.page import POLICY
from vitrail.report.plots import BOTTOM, LEFT, TALL, TOP, WIDE, Scale, round_ticks, svg, text
from vitrail.tasks.inspect import Inspection

_LARGE, _SMALL = 224, 160  # pixels of a picture on the page
_MOST_TILES = 24  # of positions, in a row or column; of larger grids every second, third, ... is drawn
_FILTER_COLUMNS = 7
_DEPTHS = 4  # of rollout, the last one among them
# From nothing to all, light enough in the middle for both backgrounds: dark blue, violet, red, orange, pale yellow.
_RAMP = np.array([[13, 16, 50], [84, 39, 130], [187, 55, 84], [243, 133, 35], [252, 244, 180]], dtype=np.float64)


def write_inspection_page(result: Inspection, path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    try:
        path.write_text(render_inspection(result), encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunError(f"{path}: the page cannot be written ({error.strerror}); make room and try again") from error


def render_inspection(result: Inspection) -> str:
    """The whole page as one string: nothing is loaded, no script runs."""
    sections = [
        ("pictures", "What each picture's answer came from", _rollouts(result)),
        ("heads", "Where each head looks", _heads(result)),
        ("distance", "How far each head looks", _distance(result)),
        ("filters", "What a patch is looked at with", _filters(result)),
        ("positions", "What it has learnt of places", _positions(result)),
        ("notes", "Left out", _notes(result)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    bodies = "\n".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{title}</h2>\n{body}</section>'
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
<title>{escape(result.model)} \u2013 Vitrail inspection</title>
<style>
{style}</style>
</head>
<body>
<header>
<div class="brand"><span><b>Vitrail</b> inspection</span></div>
<h1>{name(result.model)}</h1>
<p class="meta">{escape(result.variant)} \u00b7 {words.pictures(len(result.files))}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{bodies}
</main>
<footer><p>Made by Vitrail. This page is one file: nothing is loaded, nothing is sent, no script runs.</p></footer>
</body>
</html>
"""


def _rollouts(result: Inspection) -> str:
    """Each picture beside its rollout at some depths."""
    depth = len(result.maps)
    chosen = sorted({round(depth * (place + 1) / _DEPTHS) - 1 for place in range(_DEPTHS)} - {-1})
    cards = []
    for index, file in enumerate(result.files):
        pixels = result.pictures[index]
        tiles = [_figure(picture(pixels, file, _LARGE), "as the model sees it")]
        for layer in chosen:
            overlay = _lit(pixels, result.rollout.maps[layer, index].numpy())
            caption = f"through {layer + 1} of {depth} blocks"
            tiles.append(_figure(picture(overlay, f"{file}: rollout {caption}", _LARGE), caption))
        answer = " \u00b7 ".join(f"{name(label)} {words.percent(share)}" for label, share in result.answers[index])
        cards.append(
            f'<div class="card"><p>{answer or "This model has no head, so it gives no answer."}</p>'
            f'<div class="strip">{"".join(tiles)}</div><p class="key">{name(file)}</p></div>'
        )
    return (
        '<p class="lead">Attention rollout: each block mixes the tokens by the mean of its heads, half and half with'
        " what was there before, and the blocks are multiplied (Abnar and Zuidema 2020; figure 6 of Dosovitskiy et al."
        " 2021). Bright is what reaches the answer most; each map by its own largest value.</p>"
        f'<div class="grid one">{"".join(cards)}</div>{_csv("rollout.csv", _rollout_rows(result))}'
    )


def _heads(result: Inspection) -> str:
    """All layers and heads of each picture as small multiples."""
    count = result.maps[0].weights.shape[1]
    blocks = []
    for index, file in enumerate(result.files):
        rows = []
        for one in result.maps:
            weights = one.weights[index].numpy()
            spread = float(one.entropy[index].mean())
            label = f"{file}: layer {one.layer + 1}, heads 1 to {count} from left to right"
            rows.append(
                f'<tr><th scope="row">{one.layer + 1}</th><td>{_image(_row_of(weights), label, "tiles")}</td>'
                f"<td>{spread:.2f}</td></tr>"
            )
        blocks.append(
            f"<details{' open' if index == 0 else ''}><summary>{name(Path(file).name)}</summary><div>"
            f'<div class="two by-size">{picture(result.pictures[index], file, _SMALL)}'
            f'<div class="scroll" tabindex="0" role="region" aria-label="Heads of {escape(file)}">'
            '<table class="plain heads">'
            f'<thead><tr><th scope="col">layer</th><th scope="col">heads 1 to {count}</th>'
            f'<th scope="col">entropy</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></div></div>'
            "</details>"
        )
    source = result.maps[-1].source
    who = "the class token" if source == "class token" else "the patches on the average"
    return (
        f'<p class="lead">How much attention {who} pays each patch, a tile for each head; each tile by its own largest'
        " value. Entropy, in nats, says how widely a layer's tokens look on the average: 0 is one token,"
        f" {np.log(result.grid[0] * result.grid[1]):.2f} all patches alike.</p>{''.join(blocks)}"
        + _csv("attention.csv", _head_rows(result))
    )


def _distance(result: Inspection) -> str:
    pixels = result.distance.pixels.numpy()
    depth, heads = pixels.shape
    ticks = round_ticks(0.0, float(pixels.max()), 5)
    x_of, y_of = Scale(1, max(depth, 2), LEFT + 8, WIDE - 14), Scale(ticks[0], ticks[-1], TALL - BOTTOM - 8, TOP)
    parts = []
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - 10}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    for layer in range(0, depth, max(1, depth // 12)):
        parts.append(text(x_of(layer + 1), TALL - BOTTOM + 8, str(layer + 1), "middle"))
    parts.append(text((LEFT + WIDE) / 2, TALL - 4, "layer", "middle", "axis-text"))
    parts.append(text(LEFT, TOP - 2, "pixels", "start", "axis-text"))
    for layer, head in np.ndindex(depth, heads):
        x, y, far = x_of(layer + 1), y_of(float(pixels[layer, head])), f"{pixels[layer, head]:.1f} pixels"
        dot = f'<circle class="dot line-{head % 5}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        parts.append(f"<g><title>layer {layer + 1}, head {head + 1}: {far}</title>{dot}</g>")
    label = f"Mean attention distance of {heads} heads in each of {depth} layers, 0 to {ticks[-1]:g} pixels"
    rows = [
        ("layer", "head", "pixels"),
        *((layer + 1, head + 1, f"{pixels[layer, head]:.4f}") for layer in range(depth) for head in range(heads)),
    ]
    kept = "" if result.distance.renormalized else " What goes to the class token and its like counts as no distance."
    return (
        f'<p class="lead">Mean attention distance: {DEFINITION}.{kept} The paper averages over 128 pictures; these are'
        f" {len(result.files)}.</p>"
        f'<div class="card narrow">{svg(WIDE, TALL, label, parts)}</div>{_csv("distance.csv", rows)}'
    )


def _filters(result: Inspection) -> str:
    if result.filters is None:
        return ""
    tiles = result.filters.tiles.numpy()
    if tiles.shape[-1] not in (1, 3):
        return f'<p class="lead">The filters have {tiles.shape[-1]} channels, which no picture can show.</p>'
    bytes_of = np.repeat((tiles * 255).round().astype(np.uint8), 3 if tiles.shape[-1] == 1 else 1, axis=-1)
    columns = _FILTER_COLUMNS
    rows = -(-len(bytes_of) // columns)
    height, width = bytes_of.shape[1:3]
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), dtype=np.uint8)
    for place, tile in enumerate(bytes_of):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        sheet[top : top + height, left : left + width] = np.dstack([tile, np.full((height, width), 255, np.uint8)])
    variance = result.filters.variance.numpy()
    image = _image(sheet, f"{len(tiles)} components of the embedding filters", "tiles")
    rows_of = [("component", "share of variance"), *((n + 1, f"{share:.6f}") for n, share in enumerate(variance))]
    return (
        f'<p class="lead">The first {len(tiles)} principal components of the patch embedding\u2019s filters (figure 7,'
        f" left, of Dosovitskiy et al. 2021), each stretched by itself; together {words.percent(float(variance.sum()))}"
        " of the filters\u2019 variance. Waves and spots are what a trained model has; noise is what a fresh one"
        f' has.</p><div class="card narrow">{image}</div>' + _csv("filters.csv", rows_of)
    )


def _positions(result: Inspection) -> str:
    if result.similarity is None:
        return ""
    similarity = result.similarity
    height, width = similarity.shape[:2]
    step = -(-max(height, width) // _MOST_TILES)
    chosen = similarity[::step, ::step]
    rows, columns = chosen.shape[:2]
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            tile = np.dstack([_coloured((chosen[row, column] + 1) / 2), np.full((height, width), 255, np.uint8)])
            top, left = row * (height + 1), column * (width + 1)
            sheet[top : top + height, left : left + width] = tile
    some = "" if step == 1 else f" Of {height} x {width} tiles every {step}. is drawn."
    ys, xs = np.divmod(np.arange(height * width), width)
    listed = [
        ("row", "column", "other row", "other column", "cosine"),
        *(
            (ys[a], xs[a], ys[b], xs[b], f"{similarity[ys[a], xs[a], ys[b], xs[b]]:.6f}")
            for a in range(0, height * width, max(1, step * step))
            for b in range(height * width)
        ),
    ]
    return (
        '<p class="lead">A tile for each patch: the cosine similarity of its position with those of all others, from -1'
        f" (dark) to 1 (bright) (figure 7, centre, of Dosovitskiy et al. 2021).{some} Where a tile is brightest at its"
        " own place and along its row and column, the model has learnt the grid.</p>"
        f'<div class="card narrow">{_image(sheet, f"Position similarity, {rows} by {columns} tiles", "tiles")}</div>'
        + (_csv("positions.csv", listed) if len(listed) <= 50_000 else "")
    )


def _notes(result: Inspection) -> str:
    notes = [*result.missing, *(f"{file}: {message}" for file, message in result.broken)]
    if result.left_out:
        notes.append(f"{words.pictures(result.left_out)} after the first {len(result.files) + len(result.broken)}")
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _figure(body: str, caption: str) -> str:
    return f"<figure>{body}<figcaption><span>{escape(caption)}</span></figcaption></figure>"


def _lit(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The picture, dark where the map is, (height, width, 3) uint8: the map resized bilinearly, by its largest"
    " value."""
    height, width = pixels.shape[:2]
    share = weights / max(float(weights.max()), 1e-30)
    smooth = Image.fromarray(share.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    coloured = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return (coloured * (0.12 + 0.88 * np.asarray(smooth)[..., None])).round().astype(np.uint8)


def _row_of(maps: np.ndarray) -> np.ndarray:
    """(heads, height, width) -> the heads side by side, a clear column between them, (height, ..., 4) uint8."""
    heads, height, width = maps.shape
    sheet = np.zeros((height, heads * (width + 1) - 1, 4), dtype=np.uint8)
    for head, one in enumerate(maps):
        tile = _coloured(one / max(float(one.max()), 1e-30))
        sheet[:, head * (width + 1) : head * (width + 1) + width] = np.dstack(
            [tile, np.full((height, width), 255, np.uint8)]
        )
    return sheet


def _coloured(shares: np.ndarray) -> np.ndarray:
    """(height, width) of 0 to 1 -> (height, width, 3) uint8."""
    place = np.clip(shares, 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    values: np.ndarray = _RAMP[low] + (place - low)[..., None] * (_RAMP[low + 1] - _RAMP[low])
    return values.round().astype(np.uint8)


def _image(pixels: np.ndarray, alt: str, css_class: str) -> str:
    """Exact pixels as an <img> that is enlarged in squares."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels {css_class}" width="{width}" height="{height}" alt="{escape(alt)}"'
        f' src="data:image/png;base64,{data}">'
    )


def _csv(file: str, rows: Sequence[Sequence[object]]) -> str:
    lines = "\r\n".join(",".join(_cell(value) for value in row) for row in rows) + "\r\n"
    data = base64.b64encode(lines.encode("utf-8", "backslashreplace")).decode("ascii")
    return f'<p><a download="{file}" href="data:text/csv;base64,{data}">{file}</a></p>'


def _cell(value: object) -> str:
    shown = str(value)
    if (
        shown[:1] in ("=", "+", "-", "@", "\t")
        and not isinstance(value, int | float | np.integer)
        and not _is_number(shown)
    ):
        shown = f"'{shown}"  # a table program would take it for a formula
    return '"' + shown.replace('"', '""') + '"' if any(c in shown for c in ',"\r\n') else shown


def _is_number(shown: str) -> bool:
    try:
        float(shown)
    except ValueError:
        return False
    return True


def _head_rows(result: Inspection) -> list[tuple[object, ...]]:
    return [("file", "layer", "head", "row", "column", "weight"), *_head_cells(result)]


def _head_cells(result: Inspection) -> Iterator[tuple[object, ...]]:
    """Of the last layer; all of them would make the page several times as large."""
    last = result.maps[-1]
    for index, file in enumerate(result.files):
        for head, weights in enumerate(last.weights[index].numpy()):
            for (row, column), weight in np.ndenumerate(weights):
                yield file, last.layer + 1, head + 1, row + 1, column + 1, f"{weight:.3e}"


def _rollout_rows(result: Inspection) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [("file", "row", "column", "share")]
    for index, file in enumerate(result.files):
        weights = result.rollout.maps[-1, index].numpy()
        rows += [(file, row + 1, column + 1, f"{weight:.3e}") for (row, column), weight in np.ndenumerate(weights)]
    return rows
