"""What is wrong with a data set: broken, duplicated, leaking, contradictory, unbalanced or odd pictures.

One pass over the pictures, in threads, opens and decodes each once at a small scale. Of a data set of more than
`max_decoded` pictures a part is examined that depends on the pictures' names alone; the listing is judged whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.config import ImageLimits
from vitrail.data.duplicates import SMALL_SIDE, THUMBNAIL_SIZE, near_duplicates
from vitrail.data.findings import (
    STRICT_CODES,
    Finding,
    Groups,
    copy_findings,
    listing_findings,
    mode_counts,
    picture_findings,
)
from vitrail.data.images import Picture, open_picture
from vitrail.data.sources.base import DEFAULT_LIMITS, Source, shown
from vitrail.data.split import SPLIT_NAMES, UNASSIGNED
from vitrail.errors import DataError, ImageError

MAX_DECODED = 100_000
_PART = 64  # pictures a task of a thread takes: each is too short to be handed over alone
_DECODED_SIDE = 2 * THUMBNAIL_SIZE


@dataclass(frozen=True, eq=False)
class DataReport:
    """What `examine` saw. N samples, indices of the source everywhere."""

    num_samples: int
    num_examined: int
    classes: tuple[str, ...]
    counts: np.ndarray  # (3 splits + unassigned, classes) int64: rows train, validation, test, unassigned
    examined: np.ndarray  # (N,) bool: decoded, or tried to be; all but in very large data sets
    usable: np.ndarray  # (N,) bool: not known to be broken
    broken: tuple[tuple[int, str], ...]  # (index, cause)
    exact_groups: Groups  # the same bytes
    near_groups: Groups  # the same picture in other bytes; one index for each exact group
    # (N,) int64: pictures that are the same, exactly or nearly, share a number; it comes from a hash of their keys,
    # so that splits made from it do not depend on what else is in the data set.
    groups: np.ndarray
    conflicts: Groups  # groups with pictures in more than one class
    leaks: tuple[tuple[int, int], ...]  # pairs of one group that the given splits put on two sides
    sizes: np.ndarray  # (N, 2) int32: height, width in pixels; 0 where unknown
    modes: dict[str, int]  # stored colours, by Pillow's names -> pictures
    thumbnails: np.ndarray  # (num_examined, 16, 16, 3) uint8: whole pictures squashed, zeros where broken
    skipped: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    fingerprint: str  # sha256 over names, labels, splits and the examined files' contents

    def thumbnails_of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of `indices` (int64) that were examined, in their order, and their thumbnails (., 16, 16, 3)."""
        kept = indices[self.examined[indices]]
        places = np.cumsum(self.examined) - 1
        return kept, self.thumbnails[places[kept]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pixels, as plain values; samples by number, as in the source."""
        rows = (*SPLIT_NAMES, "unassigned")
        return {
            "num_samples": self.num_samples,
            "num_examined": self.num_examined,
            "classes": list(self.classes),
            "counts": {
                name: dict(zip(self.classes, row.tolist(), strict=True))
                for name, row in zip(rows, self.counts)
                if row.any()
            },
            "broken": [list(item) for item in self.broken],
            "exact_groups": [list(group) for group in self.exact_groups],
            "near_groups": [list(group) for group in self.near_groups],
            "conflicts": [list(group) for group in self.conflicts],
            "leaks": [list(pair) for pair in self.leaks],
            "modes": self.modes,
            "skipped": [list(item) for item in self.skipped],
            "findings": [finding.to_json() for finding in self.findings],
            "fingerprint": self.fingerprint,
        }


def examine(
    source: Source,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    max_decoded: int = MAX_DECODED,
) -> DataReport:
    """Look at every picture once, or at `max_decoded` of them, and say what is wrong with the data set.

    Args:
        progress: called with (pictures done, pictures in all), from the calling thread.
        num_threads: None: one for each core this process may use.
        max_decoded: of a larger data set only so many pictures are opened, chosen by a hash of their keys.
    """
    hashes, names_digest = _key_hashes(source)
    order = np.argsort(hashes, kind="stable") if len(source) > max_decoded else np.arange(len(source))
    chosen = np.sort(order[:max_decoded])
    looks = _Looks(source, limits, chosen)
    looks.look(num_threads or _num_cores(), progress)
    usable = np.ones(len(source), dtype=bool)
    usable[list(looks.broken)] = False
    exact = _exact_groups(looks, usable)
    near = _near_groups(looks, usable, exact)
    same = _join(exact, near)
    broken = tuple(sorted(looks.broken.items()))
    conflicts = tuple(members for members in same if len(set(source.labels[list(members)].tolist())) > 1)
    leaks = tuple(pair for members in same for pair in _across(members, source.splits))
    counts = _counts(source, usable)
    modes = mode_counts(list(looks.modes.values()))
    findings = [
        *_sampled(len(source), len(chosen)),
        *listing_findings(source, counts, usable),
        *picture_findings(source, broken, looks.sizes, modes),
        *copy_findings(source, exact, near, conflicts, leaks),
    ]
    examined = np.zeros(len(source), dtype=bool)
    examined[chosen] = True
    return DataReport(
        num_samples=len(source),
        num_examined=len(chosen),
        classes=source.classes,
        counts=counts,
        examined=examined,
        usable=usable,
        broken=broken,
        exact_groups=exact,
        near_groups=near,
        groups=_group_numbers(hashes, same),
        conflicts=conflicts,
        leaks=leaks,
        sizes=looks.sizes,
        modes=modes,
        thumbnails=looks.thumbnails,
        skipped=source.skipped,
        findings=tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))),
        fingerprint=_fingerprint(source, names_digest, looks.contents),
    )


def require_usable(report: DataReport, source: Source, strict: bool) -> None:
    """Refuse a data set that cannot be trained on; with `strict` also broken, contradictory or leaking pictures.

    Raises:
        DataError: with the findings that forbid it.
    """
    refused = [
        finding
        for finding in report.findings
        if finding.severity == "error" or (strict and finding.code in STRICT_CODES)
    ]
    if refused:
        how = " (refused because of --strict)" if all(finding.severity != "error" for finding in refused) else ""
        raise DataError(f"{shown(source.spec)}: {' '.join(finding.message for finding in refused)}{how}")


class _Looks:
    """What is kept of the M pictures `chosen`, in columns that the threads fill."""

    def __init__(self, source: Source, limits: ImageLimits, chosen: np.ndarray) -> None:
        self.source, self.limits, self.chosen = source, limits, chosen
        self.contents = np.zeros((len(chosen), 2), dtype=np.uint64)  # the first 16 bytes of SHA-256
        self.thumbnails = np.zeros((len(chosen), THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3), dtype=np.uint8)
        self.sizes = np.zeros((len(source), 2), dtype=np.int32)
        self.modes: dict[int, str] = {}
        self.broken: dict[int, str] = {}

    def look(self, num_threads: int, progress: Callable[[int, int], None] | None) -> None:
        total = len(self.chosen)
        done = 0
        executor = ThreadPoolExecutor(num_threads)
        try:
            for number in executor.map(self._look_at_part, range(0, total, _PART)):
                done += number
                if progress is not None:
                    progress(done, total)
        finally:  # an interrupt must not wait for the rest of a large data set
            executor.shutdown(wait=True, cancel_futures=True)

    def _look_at_part(self, start: int) -> int:
        part = self.chosen[start : start + _PART].tolist()
        for place, index in enumerate(part, start):
            try:
                self._look_at(place, index)
            except ImageError as error:
                self.broken[index] = error.cause
        return len(part)

    def _look_at(self, place: int, index: int) -> None:
        data = self.source.read_bytes(index)
        if data is None:
            picture = self.source.open(index)
            pixels = picture.pixels()
            digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes())
        else:
            digest = hashlib.sha256(data)
            picture = open_picture(data, name=self.source.key(index), limits=self.limits)
        self.contents[place] = np.frombuffer(digest.digest()[:16], dtype=np.uint64)
        self.sizes[index] = picture.size
        self.thumbnails[place] = thumbnail(picture)
        self.modes[index] = picture.mode


def thumbnail(picture: Picture) -> np.ndarray:
    """(16, 16, 3) uint8: the whole picture squashed, each pixel the mean of its part. Raises ImageError."""
    image = picture.image((_DECODED_SIDE, _DECODED_SIDE))
    # A JPEG at 1/8 of its size has a last row and column that lie partly outside the picture.
    height, width = (
        min(small, full / max(1, round(full / small)))
        for small, full in zip((image.height, image.width), picture.size, strict=True)
    )
    small = image.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.HAMMING, box=(0, 0, width, height))
    return np.asarray(small)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key_hashes(source: Source) -> tuple[np.ndarray, bytes]:
    """(N,) uint64 below 2**63, each of one key; and the SHA-256 of all keys."""
    hashes = np.empty(len(source), dtype=np.uint64)
    everything = hashlib.sha256()
    for index in range(len(source)):
        key = source.key(index).encode("utf-8", "surrogatepass")
        hashes[index] = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        everything.update(key + b"\0")
    return hashes, everything.digest()


def _fingerprint(source: Source, names_digest: bytes, contents: np.ndarray) -> str:
    digest = hashlib.sha256(names_digest)
    digest.update("\0".join(source.classes).encode("utf-8", "surrogatepass"))
    for column in (source.labels.astype("<i8"), source.splits.astype("<i1"), contents):
        digest.update(column.tobytes())
    return digest.hexdigest()


def _exact_groups(looks: _Looks, usable: np.ndarray) -> Groups:
    """Groups of usable pictures that are equal byte by byte, ascending."""
    places = np.flatnonzero(usable[looks.chosen])
    order = places[np.lexsort((looks.contents[places, 1], looks.contents[places, 0]))]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (looks.contents[order[1:]] != looks.contents[order[:-1]]).any(axis=1)
    runs = np.split(looks.chosen[order], np.flatnonzero(new)[1:]) if not new.all() else []
    return tuple(sorted(tuple(sorted(run.tolist())) for run in runs if len(run) > 1))


def _near_groups(looks: _Looks, usable: np.ndarray, exact: Groups) -> Groups:
    """Groups of near-duplicates among the usable pictures, one for each group of equal ones."""
    wanted = usable.copy()
    wanted[[index for group in exact for index in group[1:]]] = False
    places = np.flatnonzero(wanted[looks.chosen])
    indices = looks.chosen[places]
    found = near_duplicates(looks.thumbnails[places], looks.sizes[indices].min(axis=1) < SMALL_SIDE)
    return tuple(tuple(indices[list(group)].tolist()) for group in found)


def _join(exact: Groups, near: Groups) -> Groups:
    """Groups of pictures that are the same exactly or nearly."""
    equal = {group[0]: group for group in exact}
    joined = [tuple(sorted(index for first in group for index in equal.pop(first, (first,)))) for group in near]
    return tuple(sorted([*joined, *equal.values()]))


def _group_numbers(hashes: np.ndarray, same: Groups) -> np.ndarray:
    """(N,) int64: the hash of each picture's key; members of one group have the smallest of theirs."""
    groups = hashes.astype(np.int64)
    for members in same:
        groups[list(members)] = groups[list(members)].min()
    return groups


def _across(members: tuple[int, ...], splits: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of the group on two given sides: the first member of each side with the first of each other side."""
    sides: dict[int, int] = {}
    for index in members:
        if splits[index] != UNASSIGNED:
            sides.setdefault(int(splits[index]), index)
    firsts = [sides[side] for side in sorted(sides)]
    return [(one, other) for place, one in enumerate(firsts) for other in firsts[place + 1 :]]


def _counts(source: Source, usable: np.ndarray) -> np.ndarray:
    rows = [
        np.bincount(source.labels[usable & (source.splits == split)], minlength=len(source.classes))
        for split in (*range(len(SPLIT_NAMES)), UNASSIGNED)
    ]
    return np.stack(rows).astype(np.int64)


def _sampled(num_samples: int, num_examined: int) -> list[Finding]:
    if num_examined == num_samples:
        return []
    message = (
        f"Of {num_samples:,} pictures {num_examined:,} were opened, chosen by a hash of their names; the others are "
        "known by name alone, and one that cannot be read will be left out when its turn comes."
    )
    return [Finding("note", "sampled", message)]
