"""What `dedup` leaves in a folder: the pairs as a table, and lists of the pictures that are left without them.

The lists are tables path,label[,split] with absolute paths, so each is a data set for every command.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vitrail.data.sources.base import FileSource, Source
from vitrail.data.split import SPLIT_NAMES, UNASSIGNED
from vitrail.storage import write_file, write_json
from vitrail.tasks.dedup import DedupResult


def write_lists(result: DedupResult, folder: Path) -> tuple[str, ...]:
    """Write pairs.csv, dedup.json and the lists into `folder`, which exists.

    Returns:
        the names of the lists; none for pictures that are no files ("digits").
    """
    write_json(folder / "dedup.json", {key: value for key, value in result.to_json().items() if key != "pairs"})
    write_file(folder / "pairs.csv", _pairs(result))
    wanted: list[tuple[str, Source, npt.NDArray[np.bool_]]] = []
    if result.second is None:
        wanted.append(("without_copies.csv", result.first, result.keep_first))
    else:
        wanted.append(("train_without_leaks.csv", result.first, result.keep_first))
        wanted.append(("test_without_leaks.csv", result.second, result.keep_second))
    written = []
    for name, source, keep in wanted:
        if isinstance(source, FileSource):
            write_file(folder / name, _list(source, keep))
            written.append(name)
    return tuple(written)


def _pairs(result: DedupResult) -> bytes:
    rows = [["first", "second", "kind", "distance", "residual", "first_label", "second_label", "labels_agree"]]
    for pair in result.pairs:
        labels = result.labels(pair)
        rows.append(
            [
                result.first.key(pair.first),
                result.other.key(pair.second),
                pair.kind,
                f"{pair.distance:g}",
                f"{pair.residual:.4f}",
                *labels,
                "yes" if labels[0] == labels[1] else "no",
            ]
        )
    return _csv(rows)


def _list(source: FileSource, keep: npt.NDArray[np.bool_]) -> bytes:
    kept = np.flatnonzero(keep).tolist()
    has_splits = bool((source.splits != UNASSIGNED).any())
    rows = [["path", "label", *(["split"] if has_splits else [])]]
    for index in kept:
        # As the table reader decodes it, so that names that are no UTF-8 come back as they are.
        row = [os.path.join(source.root, os.fsdecode(source.paths[index])), source.classes[source.labels[index]]]
        if has_splits:
            split = int(source.splits[index])
            row.append("" if split == UNASSIGNED else SPLIT_NAMES[split])
        rows.append(row)
    return _csv(rows)


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
