"""The page of `inspect`: filters, positions, distances, and each head's look at each picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.inspection.distance import definition_of
from vitrail.report import words
from vitrail.report.csv_link import csv_link
from vitrail.report.distance_plot import distance_plot
from vitrail.report.document import document, in_sections, write_document
from vitrail.report.inspection_change import changes
from vitrail.report.inspection_nearest import nearest_pictures
from vitrail.report.markup import escape, name, picture
from vitrail.report.plots import line_plot
from vitrail.report.tiles import coloured, lit, sheet, tiles_image
from vitrail.tasks.inspect import Inspection

_LARGE, _SMALL = 224, 160  # pixels of a picture on the page
_MOST_TILES = 24  # of positions, in a row or column; of larger grids every second, third, ... is drawn
_FILTER_COLUMNS = 7
_TILE = 72  # pixels of a head's tile at most
_DEPTHS = 4  # of rollout, the last one among them


def write_inspection_page(results: Sequence[Inspection], path: Path) -> None:
    """Write the page to `path`; raises RunError where that cannot be done."""
    write_document(render_inspection(*results), path)


def render_inspection(*results: Inspection) -> str:
    """The whole page as one string: nothing is loaded, no script runs.

    Args:
        results: of one model, or of one before and after something was done to it, on the same pictures.
    """
    sections: list[tuple[str, str, Callable[[Inspection], str]]] = [
        ("pictures", "What each picture's answer came from", _rollouts),
        ("nearest", "The training pictures most like it", nearest_pictures),
        ("heads", "Where each head looks", _heads),
        ("depths", "What each depth would answer", _depths),
        ("colours", "Which patches are alike to it", _colours),
        ("distance", "How far each head looks", _distance),
        ("shifts", "What a shift changes", _shifts),
        ("filters", "What a patch is looked at with", _filters),
        ("positions", "What it has learnt of places", _positions),
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
    return document(title, "inspection", header, bodies)


def _side_by_side(bodies: Sequence[str]) -> str:
    """One model's section as it is; two models' beside each other, under one lead where theirs say the same."""
    if len(bodies) == 1 or not any(bodies):
        return bodies[0]
    leads, rests = zip(*(_lead_and_rest(body) for body in bodies), strict=True)
    is_shared = len(set(leads)) == 1
    columns = "".join(
        f"<div><h3>{word}</h3>{'' if is_shared else lead}"
        + (rest or "<p>This model has none.</p>").replace('download="', f'download="{word.lower()}-')
        + "</div>"
        for word, lead, rest in zip(("Before", "After"), leads, rests, strict=True)
    )
    return f'{leads[0] if is_shared else ""}<div class="pair">{columns}</div>'


def _lead_and_rest(body: str) -> tuple[str, str]:
    """The paragraph that a section begins with, and what follows."""
    if not body.startswith('<p class="lead">'):
        return "", body
    lead, end, rest = body.partition("</p>")
    return lead + end, rest


def _rollouts(result: Inspection) -> str:
    """Each picture beside its rollout at some depths."""
    depth = len(result.maps)
    chosen = sorted({round(depth * (place + 1) / _DEPTHS) - 1 for place in range(_DEPTHS)} - {-1})
    cards = []
    for index, file in enumerate(result.files):
        pixels = result.pictures[index]
        tiles = [_figure(picture(pixels, file, _LARGE), "as the model sees it")]
        for layer in chosen:
            overlay = lit(pixels, result.rollout.maps[layer, index].numpy())
            caption = f"through {layer + 1} of {depth} blocks"
            tiles.append(_figure(picture(overlay, f"{file}: rollout {caption}", _LARGE), caption))
        if result.relevance is not None:
            overlay = lit(pixels, result.relevance[index].numpy())
            caption = "what spoke for the answer, by gradients"
            tiles.append(_figure(picture(overlay, f"{file}: {caption}", _LARGE), caption))
        if result.occluded is not None:
            lost = result.occluded.lost[index].numpy().clip(min=0)
            caption = f"occlusion: what {words.percent(float(lost.max()))} at most was lost by covering"
            tiles.append(_figure(picture(lit(pixels, lost), f"{file}: {caption}", _LARGE), caption))
        answer = " \u00b7 ".join(f"{name(label)} {words.percent(share)}" for label, share in result.answers[index])
        cards.append(
            f'<div class="card"><p>{answer or "This model has no head, so it gives no answer."}</p>'
            f'<div class="strip">{"".join(tiles)}</div><p class="key">{name(file)}</p></div>'
        )
    return (
        '<p class="lead">Attention rollout: each block mixes the tokens by the mean of its heads, half and half with'
        " what was there before, and the blocks are multiplied (Abnar and Zuidema 2020; figure 6 of Dosovitskiy et al."
        " 2021). Bright is what reaches the answer most; each map by its own largest value. By gradients: attention"
        " weighted with what it changes in the answer (Chefer et al. 2021), so for this class rather than another.</p>"
        f'<div class="grid one">{"".join(cards)}</div>{csv_link("rollout.csv", _rollout_rows(result))}'
    )


def _heads(result: Inspection) -> str:
    """All layers and heads of each picture as small multiples."""
    count = result.maps[0].weights.shape[1]
    blocks = []
    for index, file in enumerate(result.files):
        rows = []
        for one in result.maps:
            weights = one.weights[index].numpy()
            weights = weights / weights.max((1, 2), keepdims=True).clip(1e-30)
            spread = float(one.entropy[index].mean())
            label = f"{file}: layer {one.layer + 1}, heads 1 to {count} from left to right"
            image = tiles_image(sheet(coloured(weights), count), label, count * _TILE)
            rows.append(f'<tr><th scope="row">{one.layer + 1}</th><td>{image}</td><td>{spread:.2f}</td></tr>')
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
    who = "the class token pays" if source == "class token" else "the patches on the average pay"
    return (
        f'<p class="lead">How much attention {who} each patch, a tile for each head; each tile by its own largest'
        " value. Entropy, in nats, says how widely a layer's tokens look on the average: 0 is one token,"
        f" {np.log(result.grid[0] * result.grid[1]):.2f} all patches alike.</p>{''.join(blocks)}"
        + csv_link("attention.csv", _head_rows(result))
    )


def _depths(result: Inspection) -> str:
    """The logit lens as a table: a row a block, a column a picture."""
    if result.depths is None:
        return ""
    head = "".join(f'<th scope="col">{picture(pixels, name_of, 56)}</th>' for pixels, name_of in _pictures(result))
    rows = []
    for layer, answers in enumerate(result.depths):
        cells = "".join(
            f"<td>{'<b>' if label == result.answers[index][0][0] else ''}{name(label)}"
            f"{'</b>' if label == result.answers[index][0][0] else ''} {words.percent(share)}</td>"
            for index, (label, share) in enumerate(answers)
        )
        rows.append(f'<tr><th scope="row">{layer + 1}</th>{cells}</tr>')
    listed = [
        ("layer", "file", "class", "probability"),
        *(
            (layer + 1, file, label, f"{share:.6f}")
            for layer, answers in enumerate(result.depths)
            for file, (label, share) in zip(result.files, answers, strict=True)
        ),
    ]
    return (
        '<p class="lead">The final norm and the head applied to what each block gives (the logit lens). The head was'
        " learnt for the last block alone: an earlier one says what is there in a form that the head can read. Bold is"
        " what the model answers in the end.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Answers by depth"><table class="plain">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        + csv_link("depths.csv", listed)
    )


def _colours(result: Inspection) -> str:
    tiles = []
    for index, (pixels, file) in enumerate(_pictures(result)):
        colours = (result.colours.colours[index].numpy() * 255).round().astype(np.uint8)
        tiles.append(_figure(picture(pixels, file, _LARGE), "as the model sees it"))
        tiles.append(_figure(tiles_image(colours, f"{file}: patches as colours"), "its patches"))
    share = float(result.colours.variance.sum())
    return (
        '<p class="lead">The first three principal components of the patches\u2019 last features, over all these'
        f" pictures, as red, green and blue; together {words.percent(share)} of the features\u2019 variance. Patches of"
        " one colour are alike to the model, in one picture and across them.</p>"
        f'<div class="card"><div class="strip">{"".join(tiles)}</div></div>'
    )


def _shifts(result: Inspection) -> str:
    if result.shifts is None:
        return ""
    moved = result.shifts.moved.mean(1).numpy()
    points = [(0.0, 0.0), *zip(map(float, result.shifts.shifts), map(float, moved), strict=True)]
    patch = result.image_size[1] // result.grid[1]
    plot = line_plot(
        points,
        label=f"Probability that goes to other classes at shifts of 0 to {result.shifts.shifts[-1]} pixels",
        x_label="shift to the right in pixels",
        y_format=lambda value: f"{100 * value:.3g} %",
        css_class="accuracy",
        from_zero=True,
    )
    same = float(result.shifts.same.double().mean())
    rows = [
        ("shift", "file", "moved", "same answer"),
        *(
            (shift, result.files[index], f"{float(value):.6f}", int(result.shifts.same[place, index]))
            for place, shift in enumerate(result.shifts.shifts)
            for index, value in enumerate(result.shifts.moved[place])
        ),
    ]
    return (
        '<p class="lead">How much of the probability goes to other classes when the picture moves to the right, its'
        f" edge repeated: half the sum of the differences, averaged over"
        f" {words.pictures(result.shifts.moved.shape[1])}. A dip at {patch} pixels, the side of a patch, says that the"
        f" model sees patches rather than places. In {words.percent(same)} of the cases the answer stays the same.</p>"
        f'<div class="card narrow one-plot">{plot}</div>{csv_link("shifts.csv", rows)}'
    )


def _pictures(result: Inspection) -> Iterator[tuple[np.ndarray, str]]:
    return zip(result.pictures, result.files, strict=True)


def _distance(result: Inspection) -> str:
    definition = definition_of(result.distance, result.num_prefix_tokens)
    return distance_plot(result.distance.pixels.numpy(), result.distance.even, definition, len(result.files))


def _filters(result: Inspection) -> str:
    if result.filters is None:
        return ""
    tiles = result.filters.tiles.numpy()
    if tiles.shape[-1] not in (1, 3):
        return f'<p class="lead">The filters have {tiles.shape[-1]} channels, which no picture can show.</p>'
    bytes_of = np.repeat((tiles * 255).round().astype(np.uint8), 3 if tiles.shape[-1] == 1 else 1, axis=-1)
    variance = result.filters.variance.numpy()
    image = tiles_image(sheet(bytes_of, _FILTER_COLUMNS), f"{len(tiles)} components of the embedding filters")
    rows_of = [("component", "share of variance"), *((n + 1, f"{share:.6f}") for n, share in enumerate(variance))]
    return (
        f'<p class="lead">The first {len(tiles)} principal components of the patch embedding\u2019s filters (figure 7,'
        f" left, of Dosovitskiy et al. 2021), each stretched by itself; together {words.percent(float(variance.sum()))}"
        " of the filters\u2019 variance. Waves and spots are what a trained model has; noise is what a fresh one"
        f' has.</p><div class="card narrow">{image}</div>' + csv_link("filters.csv", rows_of)
    )


def _positions(result: Inspection) -> str:
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
        f'<div class="card narrow">{image}</div>' + (csv_link("positions.csv", listed) if len(listed) <= 50_000 else "")
    )


def _notes(result: Inspection) -> str:
    notes = [*result.missing, *(f"{file}: {message}" for file, message in result.broken)]
    if result.left_out:
        notes.append(f"{words.pictures(result.left_out)} after the first {len(result.files) + len(result.broken)}")
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _figure(body: str, caption: str) -> str:
    return f"<figure>{body}<figcaption><span>{escape(caption)}</span></figcaption></figure>"


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
