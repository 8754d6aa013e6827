"""What the page of `inspect` shows of each picture: what its answer came from, by depth and by patch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vitrail.report import words
from vitrail.report.exhibit import exhibit
from vitrail.report.markup import escape, name, picture
from vitrail.report.tiles import RAMP, coloured, lit, sheet, tiles_image
from vitrail.tasks.inspect import Inspection

LARGE = 224  # pixels of a picture on the page
_DEPTHS = 4  # of rollout, the last one among them


def rollouts(result: Inspection) -> str:
    """Each picture beside its rollout at some depths, and what else says where its answer came from."""
    cards = "".join(_card(result, index) for index in range(len(result.files)))
    more = [] if result.occluded is None else [("occlusion", list(_occlusion_rows(result)))]
    # The script reads shares back from colours: along the ramp the sum of red, green and blue only grows.
    ramp = " ".join(str(int(colour.sum())) for colour in RAMP)
    return (
        '<p class="lead">Attention rollout: each block mixes the tokens by the mean of its heads, half and half with'
        " what was there before, and the blocks are multiplied (Abnar and Zuidema 2020; figure 6 of Dosovitskiy et al."
        " 2021). Bright is what reaches the answer most; each map by its own largest value. By gradients: attention"
        " weighted with what it changes in the answer (Chefer et al. 2021), so for this class rather than another.</p>"
        + exhibit("rollout", f'<div class="grid one" data-ramp="{ramp}">{cards}</div>', _rollout_rows(result), more)
    )


def _card(result: Inspection, index: int) -> str:
    file, pixels, depth = result.files[index], result.pictures[index], len(result.maps)
    maps = result.rollout.maps[:, index].numpy()
    shares = maps / maps.max((1, 2), keepdims=True).clip(1e-30)
    every = tiles_image(sheet(coloured(shares), depth), f"{file}: rollout through each number of blocks")
    tiles = [
        f'<figure class="rolled" data-depth="{depth}"><div class="stage">{picture(pixels, file, LARGE)}</div>'
        f"{every.replace('<img ', '<img hidden ')}<figcaption><span>as the model sees it</span></figcaption></figure>"
    ]

    def add(weights: np.ndarray, caption: str, what: str = "") -> None:
        tiles.append(_figure(picture(lit(pixels, weights), f"{file}: {what}{caption}", LARGE), caption))

    for layer in _chosen_depths(depth):
        add(maps[layer], f"through {layer + 1} of {depth} blocks", "rollout ")
    if result.relevance is not None:
        add(result.relevance[index].numpy(), "what spoke for the answer, by gradients")
    if result.occluded is not None:
        lost = result.occluded.lost[index].numpy().clip(min=0)
        add(lost, f"occlusion: what {words.percent(float(lost.max()))} at most was lost by covering")
    answer = " \u00b7 ".join(f"{name(label)} {words.percent(share)}" for label, share in result.answers[index])
    return (
        f'<div class="card"><p>{answer or "This model has no head, so it gives no answer."}</p>'
        f'<div class="strip">{"".join(tiles)}</div><p class="key">{name(file)}</p></div>'
    )


def _chosen_depths(depth: int) -> list[int]:
    return sorted({round(depth * (place + 1) / _DEPTHS) - 1 for place in range(_DEPTHS)} - {-1})


def _rollout_rows(result: Inspection) -> list[tuple[object, ...]]:
    """A row a patch; a column for each map that is drawn."""
    depth = len(result.maps)
    maps = {f"through {layer + 1} of {depth}": result.rollout.maps[layer] for layer in _chosen_depths(depth)}
    if result.relevance is not None:
        maps["by gradients"] = result.relevance
    rows: list[tuple[object, ...]] = [("file", "row", "column", *maps)]
    for index, file in enumerate(result.files):
        for row, column in np.ndindex(*result.grid):
            rows.append(
                (file, row + 1, column + 1, *(f"{float(map_[index, row, column]):.3e}" for map_ in maps.values()))
            )
    return rows


def _occlusion_rows(result: Inspection) -> Iterator[tuple[object, ...]]:
    yield "file", "top", "left", "size", "lost"
    found = result.occluded
    assert found is not None
    height, width = result.image_size
    for index, file in enumerate(result.files):
        for (row, column), lost in np.ndenumerate(found.lost[index].numpy()):
            top, left = min(row * found.stride, height - found.size), min(column * found.stride, width - found.size)
            yield file, top, left, found.size, f"{lost:.6f}"


def depths(result: Inspection) -> str:
    """The logit lens as a table: a row a block, a column a picture."""
    if result.depths is None:
        return ""
    pictures = zip(result.pictures, result.files, strict=True)
    head = "".join(f'<th scope="col">{picture(pixels, file, 56)}</th>' for pixels, file in pictures)
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
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Answers by depth"><table class="plain">'
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )
    return (
        '<p class="lead">The final norm and the head applied to what each block gives (the logit lens). The head was'
        " learnt for the last block alone: an earlier one says what is there in a form that the head can read. Bold is"
        f" what the model answers in the end.</p>{exhibit('depths', table, listed)}"
    )


def colours(result: Inspection) -> str:
    """Each picture beside its patches, alike ones in one colour."""
    tiles = []
    listed: list[tuple[object, ...]] = [("file", "row", "column", "red", "green", "blue")]
    for index, (pixels, file) in enumerate(zip(result.pictures, result.files, strict=True)):
        shares = result.colours.colours[index].numpy()
        patches = tiles_image((shares * 255).round().astype(np.uint8), f"{file}: patches as colours")
        seen = _figure(picture(pixels, file, LARGE), "as the model sees it")
        tiles.append(f"<div>{seen}{_figure(patches, 'its patches')}</div>")
        listed += [
            (file, row + 1, column + 1, *(f"{share:.4f}" for share in shares[row, column]))
            for row, column in np.ndindex(*result.grid)
        ]
    share = float(result.colours.variance.sum())
    return (
        '<p class="lead">The first three principal components of the patches\u2019 last features, over all these'
        f" pictures, as red, green and blue; together {words.percent(share)} of the features\u2019 variance. Patches of"
        " one colour are alike to the model, in one picture and across them.</p>"
        + exhibit("colours", f'<div class="card"><div class="duos">{"".join(tiles)}</div></div>', listed)
    )


def _figure(body: str, caption: str) -> str:
    return f"<figure>{body}<figcaption><span>{escape(caption)}</span></figcaption></figure>"
