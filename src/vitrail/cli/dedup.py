"""`vitrail dedup TRAIN --against TEST`: what of a test set is in the training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from vitrail.cli.output import percent, write_columns, write_json, write_line
from vitrail.cli.parsing import UsageError, parse
from vitrail.cli.terminal import Terminal

if TYPE_CHECKING:
    from vitrail.data.copies import Pair
    from vitrail.data.sources.base import Source
    from vitrail.report.data import Thumbnail
    from vitrail.tasks.dedup import DedupResult

NUM_SHOWN = 20  # pairs on the terminal; the files have all


@dataclass(frozen=True)
class Dedup:
    """Name the pictures of a test set that are in the training set too, exactly or nearly. Changes nothing.

    Without --against: the copies within one set.
    """

    train: Positional[str]
    """Pictures, as for `vitrail fit`; of a set with its own splits, all of them."""
    against: str | None = None
    """The test pictures, likewise."""
    by: Literal["hash", "embedding"] = "hash"
    """hash: 64-bit perceptual hashes propose, pixels decide. embedding: features of --backbone."""
    backbone: str | None = None
    """Any weights: a run, a file, a name of `vitrail models --weights`, or hf-hub:owner/name."""
    distance: int = 12
    """Bits of 64 in which the hashes of a pair may differ, at most 16."""
    threshold: float = 0.95
    """The least cosine of a pair, by embedding: a choice, look at the page before you believe it."""
    mirrored: bool = False
    """Find pictures mirrored left to right, too."""
    out: str | None = None
    """A folder, not there yet, for pairs.csv, pairs.html and the lists of pictures without copies."""
    json: bool = False
    """Everything as JSON."""


def run(arguments: list[str]) -> int:
    command = parse(Dedup, arguments, prog="vitrail dedup")
    if command.out is not None and Path(command.out).exists():
        raise UsageError(f"--out {command.out} is there already; name a new folder.")
    from vitrail.storage import new_folder
    from vitrail.tasks.dedup import DedupConfig, dedup
    from vitrail.tasks.dedup_lists import write_lists
    from vitrail.training.events import Events

    config = DedupConfig(
        train=command.train,
        against=command.against,
        by=command.by,
        distance=command.distance,
        mirrored=command.mirrored,
        backbone=command.backbone,
        threshold=command.threshold,
    )
    with Events(Terminal()) as events:
        result = dedup(config, events)
    lists: tuple[str, ...] = ()
    if command.out is not None:
        with new_folder(Path(command.out)) as folder:
            lists = write_lists(result, folder)
            (folder / "pairs.html").write_text(_page(result), encoding="utf-8", newline="\n")
    if command.json:
        write_json({**result.to_json(), "out": command.out})
    else:
        _tell(result, command.out, lists)
    return 0


def sentences(result: DedupResult) -> list[str]:
    """The answer in plain words, the counts first."""
    said = []
    first, second = result.first, result.second
    if result.config.by == "embedding":
        # A backbone finds lookalikes, of which copies are a part: nothing is claimed that was not looked at.
        of = second if second is not None else first
        said.append(
            f"{result.num_leaking[1]:,} of {len(of):,} {'pictures' if second is None else 'test pictures'} have a"
            f" lookalike{'' if second is None else ' in the training set'}, to this backbone: a cosine of at least"
            f" {result.config.threshold:g}. Whether they are copies, the pairs must show."
        )
    elif second is None:
        said.append(f"{result.num_leaking[1]:,} of {len(first):,} pictures repeat another one of the set.")
    else:
        share = percent(result.num_leaking[1] / len(second))
        said.append(
            f"{result.num_leaking[1]:,} of {len(second):,} test pictures ({share}) are in the training set too;"
            f" {result.num_leaking[0]:,} of {len(first):,} training pictures are copies of them."
        )
    counts = dict.fromkeys(("same file", "near", "cropped", "mirrored", "similar"), 0)
    for pair in result.pairs:
        counts[pair.kind] += 1
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    if kinds:
        agree = sum(one == other for one, other in map(result.labels, result.pairs))
        said.append(f"Pairs: {kinds}. In {agree:,} of {len(result.pairs):,} both pictures have the same label.")
    if result.broken:
        said.append(f"Left out because they cannot be read: {len(result.broken):,}.")
    return said


def _tell(result: DedupResult, out: str | None, lists: tuple[str, ...]) -> None:
    for sentence in sentences(result):
        write_line(sentence)
    if result.pairs:
        write_line()
        write_columns(
            [
                [pair.kind, _measure(pair), result.first.key(pair.first), result.other.key(pair.second)]
                for pair in result.pairs[:NUM_SHOWN]
            ]
        )
    if len(result.pairs) > NUM_SHOWN:
        write_line(f"and {len(result.pairs) - NUM_SHOWN:,} more pairs; --out FOLDER or --json has all")
    if out is not None:
        write_line()
        write_line(f"written: {', '.join(f'{out}/{name}' for name in ('pairs.html', 'pairs.csv', *lists))}")
        if not lists:
            write_line("no lists of what is left: they name files, and these pictures are none")


def _measure(pair: Pair) -> str:
    if pair.kind == "same file":
        return ""
    if pair.kind == "similar":
        return f"cosine {pair.distance:.3f}"
    return f"{pair.distance:.0f} of 64 bits, {100 * pair.residual:.1f} % of the detail differs"


def _page(result: DedupResult) -> str:
    from vitrail.report.pairs import MAX_SHOWN, PairsData, ShownPair, render_pairs

    shown = []
    for pair in result.pairs[:MAX_SHOWN]:
        labels = result.labels(pair)
        first = _thumbnail(result.first, pair.first, labels[0])
        shown.append(ShownPair(first, _thumbnail(result.other, pair.second, labels[1]), pair.kind, _measure(pair)))
    title = result.first.name if result.second is None else f"{result.second.name} in {result.first.name}"
    return render_pairs(PairsData(title, sentences(result), shown, len(result.pairs)))


def _thumbnail(source: Source, index: int, label: str) -> Thumbnail:
    from vitrail.errors import ImageError
    from vitrail.report.data import Thumbnail

    try:
        pixels = source.open(index).pixels((256, 256))
    except ImageError:  # gone since it was compared
        return Thumbnail(source.key(index), None, label)
    return Thumbnail(source.key(index), pixels, label)
