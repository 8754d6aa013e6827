"""What the data check says: one calm sentence a finding, with what to do next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vitrail.data.sources.base import Source, several, shown
from vitrail.data.split import SPLIT_NAMES

MAX_KEYS = 50  # samples that a finding names in full; the report has all of them
TINY_SIDE = 32  # pixels
LONG_ASPECT = 4.0  # long side / short side
UNEVEN = 10.0  # largest class / smallest class
# What `--strict` refuses: pictures that cannot be used, that contradict one another or that leak.
STRICT_CODES = frozenset({"nothing", "one-class", "broken", "unreadable", "conflict", "leak"})
# What is about the classes alone, and no matter to whom looks at none.
CLASS_CODES = frozenset({"one-class", "few", "uneven", "missing", "conflict"})

Groups = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Finding:
    severity: Literal["error", "warning", "note"]
    code: str  # "broken", "leak", ...: for programs
    message: str
    keys: tuple[str, ...] = ()  # the first of the samples or files it is about

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "code": self.code, "message": self.message, "keys": list(self.keys)}


def count(number: int, what: str, plural: str | None = None) -> str:
    """ "1 picture", "1,675 pictures"."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def listing_findings(source: Source, counts: np.ndarray, usable: np.ndarray) -> Iterator[Finding]:
    """What the names alone tell. `counts`: (4, classes), usable pictures in train, validation, test and unassigned."""
    if not usable.any():
        yield Finding("error", "nothing", f"None of the {count(len(source), 'picture')} can be read.")
    if len(source.classes) == 1:
        yield Finding(
            "error",
            "one-class",
            f"There is only one class, '{shown(source.classes[0])}'; a classifier needs pictures of a second one.",
        )
    yield from _skipped(source)
    yield from (Finding("note", "listing", note) for note in source.notes)
    yield from _class_sizes(source.classes, counts)
    yield from _missing_from_splits(source.classes, counts)


def _skipped(source: Source) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file, why in source.skipped:
        by_reason[why].append(file)
    for why, files in sorted(by_reason.items()):
        harmless = why.startswith(("is hidden", "does not have the extension", "is outside", "is a link to a folder"))
        yield Finding(
            "note" if harmless else "warning",
            "skipped" if harmless else "unreadable",
            f"{count(len(files), 'entry', 'entries')} left out, reason: {why} ({several(files)}).",
            tuple(files[:MAX_KEYS]),
        )


def _class_sizes(classes: tuple[str, ...], counts: np.ndarray) -> Iterator[Finding]:
    totals = counts.sum(axis=0)
    few = [f"{name} ({total})" for name, total in zip(classes, totals.tolist(), strict=True) if total < 3]
    if few:
        yield Finding(
            "warning",
            "few",
            f"{count(len(few), 'class', 'classes')} with fewer than 3 readable pictures cannot be trained, tuned and "
            f"tested: {several(few)}; add pictures, or merge or remove these classes.",
            tuple(few[:MAX_KEYS]),
        )
    if len(classes) > 1 and totals.min() > 0 and totals.max() / totals.min() >= UNEVEN:
        most, least = int(totals.argmax()), int(totals.argmin())
        yield Finding(
            "note",
            "uneven",
            f"The classes are uneven: '{shown(classes[most])}' has {totals[most]:,} pictures and "
            f"'{shown(classes[least])}' {totals[least]:,}; --balance weighs them alike.",
        )


def _missing_from_splits(classes: tuple[str, ...], counts: np.ndarray) -> Iterator[Finding]:
    for name, row in zip(SPLIT_NAMES, counts[:3], strict=True):
        missing = [label for label, number in zip(classes, row.tolist(), strict=True) if number == 0]
        if row.any() and missing:
            effect = "cannot be learnt" if name == "train" else "cannot be judged there"
            yield Finding(
                "warning",
                "missing",
                f"{count(len(missing), 'class', 'classes')} without a readable picture in the {name} split {effect}: "
                f"{several(missing)}; the label map stays the same for all splits.",
                tuple(missing[:MAX_KEYS]),
            )


def picture_findings(
    source: Source, broken: Sequence[tuple[int, str]], sizes: np.ndarray, modes: dict[str, int]
) -> Iterator[Finding]:
    """What single pictures tell. `sizes`: (N, 2) height, width; 0 where unknown."""
    if broken:
        causes = [f"{shown(source.key(index))} ({cause})" for index, cause in broken]
        yield Finding(
            "warning",
            "broken",
            f"{count(len(broken), 'picture')} cannot be read and will be left out: {several(causes)}; "
            "replace or remove them.",
            tuple(source.key(index) for index, _ in broken[:MAX_KEYS]),
        )
    known = np.flatnonzero(sizes.min(axis=1) > 0)
    if len(known) == 0:
        return
    short, long = sizes[known].min(axis=1), sizes[known].max(axis=1)
    tiny = known[short < TINY_SIDE] if np.median(short) >= TINY_SIDE else known[:0]
    if len(tiny):
        yield _odd(source, "tiny", tiny, f"smaller than {TINY_SIDE} pixels and will look blurred", "look at them")
    outlying = known[long >= LONG_ASPECT * np.maximum(short, 1)]
    if len(outlying):
        yield _odd(
            source,
            "aspect",
            outlying,
            f"more than {LONG_ASPECT:g} times as long as wide, so cropping cuts most of each away",
            "check that each was meant as one picture",
        )
    grey = sum(number for mode, number in modes.items() if mode in ("1", "L", "LA") or mode.startswith("I"))
    if 0 < grey < sum(modes.values()):
        message = f"{grey:,} of {sum(modes.values()):,} pictures are stored without colour, the others with it."
        yield Finding("note", "modes", message)


def _odd(source: Source, code: str, which: np.ndarray, what: str, advice: str) -> Finding:
    keys = [source.key(index) for index in which[:MAX_KEYS].tolist()]
    names = several(keys) if len(which) <= len(keys) else several(keys[:3]) + f" and {len(which) - 3:,} more"
    number = "1 picture is" if len(which) == 1 else f"{len(which):,} pictures are"
    return Finding("note", code, f"{number} {what}: {names}; {advice}.", tuple(keys))


def copy_findings(
    source: Source, exact: Groups, near: Groups, conflicts: Groups, leaks: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """What comparing the pictures with one another tells."""
    for code, groups, how in (("exact", exact, "exactly"), ("near", near, "nearly")):
        if groups:
            copies = sum(map(len, groups)) - len(groups)
            yield Finding(
                "note",
                code,
                f"{count(copies, 'picture')} {how} {'repeats' if copies == 1 else 'repeat'} another one, such as "
                f"{_named(source, groups[0])}; a split made here keeps copies on one side.",
                _keys(source, groups),
            )
    if conflicts:
        yield Finding(
            "warning",
            "conflict",
            f"{count(len(conflicts), 'picture')} in more than one class, such as {_named(source, conflicts[0])}; "
            "keep each in the class where it belongs.",
            _keys(source, conflicts),
        )
    if leaks:
        yield Finding(
            "warning",
            "leak",
            f"{count(len(leaks), 'pair')} of copies on two sides of the given splits, such as "
            f"{_named(source, leaks[0])}; remove one of each, or the test will flatter the model.",
            _keys(source, leaks),
        )


def _named(source: Source, group: Sequence[int]) -> str:
    return " and ".join(shown(source.key(index)) for index in group[:2])


def _keys(source: Source, groups: Groups) -> tuple[str, ...]:
    return tuple(source.key(index) for group in groups[:MAX_KEYS] for index in group[:MAX_KEYS])[:MAX_KEYS]


def mode_counts(modes: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(modes).items()))
