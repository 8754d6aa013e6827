"""The page of `dedup`: pairs of copies side by side, so that a person can judge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.data import Thumbnail
from vitrail.report.document import document
from vitrail.report.markup import escape, name, picture

MAX_SHOWN = 300  # pairs; the others are counted
PICTURE_SIZE = 128  # pixels


@dataclass(frozen=True)
class ShownPair:
    first: Thumbnail  # its note is the class
    second: Thumbnail
    kind: str
    measure: str  # "5 of 64 bits, 0.4 % of the detail differs"


@dataclass(frozen=True)
class PairsData:
    title: str
    sentences: Sequence[str]  # the answer, the counts first
    pairs: Sequence[ShownPair]  # at most MAX_SHOWN of them
    num_pairs: int  # in all


def render_pairs(data: PairsData) -> str:
    """The whole page as one string: nothing is loaded, no script runs."""
    answer = "".join(
        f'<p class="say">{escape(text)}</p>' if place == 0 else f"<p>{escape(text)}</p>"
        for place, text in enumerate(data.sentences)
    )
    more = data.num_pairs - len(data.pairs)
    tail = f"<p>and {more:,} more; pairs.csv has them all.</p>" if more else ""
    shown = "".join(map(_pair, data.pairs))
    pairs = f'<ul class="groups">{shown}</ul>{tail}' if shown else "<p>None.</p>"
    main = f"""{answer}
<section id="pairs" aria-labelledby="pairs-title">
<h2 id="pairs-title">The pairs, the surest first</h2>
{pairs}
</section>"""
    return document(data.title, "copies", f"<h1>{name(data.title)}</h1>", main)


def _pair(pair: ShownPair) -> str:
    said = f'<div class="thumb"><p><b>{escape(pair.kind)}</b></p><p>{escape(pair.measure)}</p></div>'
    return f"<li>{_thumbnail(pair.first)}{_thumbnail(pair.second)}{said}</li>"


def _thumbnail(shown: Thumbnail) -> str:
    return (
        f'<div class="thumb" title="{escape(shown.key)}"><div class="frame">'
        f"{picture(shown.picture, shown.key, PICTURE_SIZE)}</div><p>{name(shown.note)}</p>"
        f'<p class="key">{name(shown.key)}</p></div>'
    )
