"""The section of `inspect` with the training pictures that a run's model finds most like each picture."""

from __future__ import annotations

from vitrail.report.exhibit import exhibit
from vitrail.report.markup import escape, name, picture
from vitrail.tasks.inspect import Inspection
from vitrail.tasks.nearest import THUMBNAIL_SIDE, Neighbour

_SIDE = 160  # pixels of the picture itself


def nearest_pictures(result: Inspection) -> str:
    """Each picture beside its neighbours; empty where the model is no run, or one that keeps none."""
    if result.nearest is None:
        return ""
    kept, num_training = result.nearest.num_kept, result.nearest.num_training
    of = f"{kept:,} of the {num_training:,}" if kept < num_training else f"the {kept:,}"
    cards = []
    for index, (file, neighbours) in enumerate(zip(result.files, result.nearest.found, strict=True)):
        answer = result.answers[index][0][0] if result.answers[index] else None
        own = f'<div class="frame">{picture(result.pictures[index], file, _SIDE)}</div>'
        said = "as the model sees it" if answer is None else f"as the model sees it: <b>{name(answer)}</b>"
        tiles = "".join(_tile(neighbour, neighbour.label == answer) for neighbour in neighbours)
        cards.append(
            f'<div class="card"><div class="strip of-frames"><figure>{own}<figcaption>{said}</figcaption></figure>'
            f'{tiles}</div><p class="key">{name(file)}</p></div>'
        )
    rows = [
        ("file", "place", "training picture", "label", "similarity"),
        *(
            (file, place, neighbour.name, neighbour.label, f"{neighbour.similarity:.6f}")
            for file, neighbours in zip(result.files, result.nearest.found, strict=True)
            for place, neighbour in enumerate(neighbours, 1)
        ),
    ]
    return (
        f'<p class="lead">Of {of} training pictures those that look most like it to the model: whose features, what its'
        " head sees, have the largest cosine with the picture\u2019s own (1 for the same). Bold are those with the"
        " label that the model answers. Where one is out of place, its label may be wrong.</p>"
        + exhibit("nearest", f'<div class="grid one">{"".join(cards)}</div>', rows)
    )


def _tile(neighbour: Neighbour, agrees: bool) -> str:
    shown = picture(neighbour.thumbnail, f"{neighbour.name}: {neighbour.label}", THUMBNAIL_SIDE)
    label = f"<b>{name(neighbour.label)}</b>" if agrees else name(neighbour.label)
    return (
        f'<figure title="{escape(neighbour.name)}"><div class="frame">{shown}</div>'
        f"<figcaption>{label}<span>{neighbour.similarity:.3f}</span></figcaption></figure>"
    )
