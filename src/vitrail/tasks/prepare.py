"""From a source of pictures to data that can be trained on: checked, split, and written down in data.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitrail.data.config import DataConfig, ImageLimits
from vitrail.data.doctor import DataReport, examine, require_usable
from vitrail.data.findings import CLASS_CODES
from vitrail.data.sources import open_pictures
from vitrail.data.sources.base import Source
from vitrail.data.split import SPLIT_NAMES, TEST, TRAIN, UNASSIGNED, VALIDATION, make_splits
from vitrail.errors import DataError, RunError
from vitrail.storage import write_json
from vitrail.training.events import Events

DATA_FILE = "data.json"


@dataclass(frozen=True)
class PreparedData:
    """A source with its splits. `report` is None where a run goes on from its data.json instead of a new check."""

    source: Source
    splits: npt.NDArray[np.int8]  # (N,) TRAIN, VALIDATION, TEST; UNASSIGNED for what is left out
    fingerprint: str
    check: dict[str, Any]  # the data check as plain values
    report: DataReport | None = None

    def indices(self, split: int) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.splits == split)

    def labels(self, split: int) -> npt.NDArray[np.int64]:
        return np.asarray(self.source.labels[self.splits == split])

    def class_counts(self, split: int) -> npt.NDArray[np.int64]:
        """(classes,) pictures of each class in a split."""
        return np.bincount(self.labels(split), minlength=len(self.source.classes)).astype(np.int64)


def prepare_data(source: Source, config: DataConfig, events: Events, *, labelled: bool = True) -> PreparedData:
    """Check a source and split it.

    Args:
        labelled: False where no label is looked at: then nothing that is odd about the classes matters.
    Raises:
        DataError: it cannot be trained on, or `config.strict` and the check found something.
    """
    report = examine(
        source, ImageLimits(), progress=lambda done, total: events.progress("checking pictures", done, total)
    )
    if not labelled:
        report = replace(report, findings=tuple(one for one in report.findings if one.code not in CLASS_CODES))
    require_usable(report, source, config.strict)
    for finding in report.findings:
        (events.note if finding.severity == "note" else events.warning)(finding.message)
    splits = make_splits(
        labels=source.labels,
        given=source.splits,
        groups=report.groups,
        usable=report.usable,
        num_classes=len(source.classes),
        config=config,
    )
    prepared = PreparedData(source, splits, report.fingerprint, report.to_json(), report)
    prepared = restrict_training(prepared, config)
    _require_splits(prepared, (TRAIN, TEST) if config.validation_share == 0 else (TRAIN, VALIDATION, TEST))
    return prepared


def hold_out(prepared: PreparedData, share: float, seed: int = 0) -> PreparedData:
    """Take a share of the training pictures of each class as validation pictures, copies on one side.

    Raises:
        DataError: a share of so few pictures is none of them, or all.
    """
    report, source = prepared.report, prepared.source
    splits = make_splits(
        labels=source.labels,
        given=prepared.splits,
        groups=np.arange(len(source)) if report is None else report.groups,
        usable=prepared.splits == TRAIN,
        num_classes=len(source.classes),
        config=DataConfig(source.spec, validation_share=share, test_share=0.0, seed=seed),
    )
    held_out = replace(prepared, splits=np.where(prepared.splits == TRAIN, splits, prepared.splits))
    _require_splits(held_out, (TRAIN, VALIDATION))
    return held_out


def restrict_training(prepared: PreparedData, config: DataConfig) -> PreparedData:
    """Keep config.train_share of the training pictures of each class, at least one; the others belong to no split.

    They are taken in the order of a hash of their name and the seed, so that a smaller share lies inside a larger one.
    """
    if config.train_share == 1.0:
        return prepared
    source, splits = prepared.source, prepared.splits.copy()
    rows = prepared.indices(TRAIN)
    ranks = np.array([_rank(source.key(int(index)), config.seed) for index in rows], dtype=np.uint64)
    for label in np.unique(source.labels[rows]):
        own = np.flatnonzero(source.labels[rows] == label)
        num_kept = max(1, round(config.train_share * len(own)))
        splits[rows[own[np.argsort(ranks[own], kind="stable")[num_kept:]]]] = UNASSIGNED
    return replace(prepared, splits=splits)


def _rank(key: str, seed: int) -> int:
    text = f"{seed}:{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _require_splits(prepared: PreparedData, splits: Sequence[int]) -> None:
    for split in splits:
        if not (prepared.splits == split).any():
            raise DataError(
                f"{prepared.source.spec}: no picture is left for the {SPLIT_NAMES[split]} split;"
                " add pictures, or give larger shares with --validation-share and --test-share"
            )


def describe_splits(prepared: PreparedData) -> str:
    """One line: "train 1,173 / validation 251 / test 251 pictures in 10 classes"."""
    numbers = [(SPLIT_NAMES[split], len(prepared.indices(split))) for split in (TRAIN, VALIDATION, TEST)]
    counts = " / ".join(f"{name} {number:,}" for name, number in numbers if number)
    num_classes = len(prepared.source.classes)
    return f"{counts} pictures in {num_classes:,} class{'' if num_classes == 1 else 'es'}"


def write_data_record(folder: Path, prepared: PreparedData, floor: list[dict[str, Any]]) -> None:
    """data.json: fingerprint, label map, the pictures of each split by name, what the check found, the floor."""
    source = prepared.source
    write_json(
        folder / DATA_FILE,
        {
            "source": source.spec,
            "fingerprint": prepared.fingerprint,
            "labels": list(source.classes),
            "counts": {
                SPLIT_NAMES[split]: dict(zip(source.classes, prepared.class_counts(split).tolist(), strict=True))
                for split in (TRAIN, VALIDATION, TEST)
            },
            "floor": floor,
            "check": prepared.check,
            "skipped": [list(item) for item in source.skipped],
            "splits": {
                SPLIT_NAMES[split]: [source.key(int(index)) for index in prepared.indices(split)]
                for split in (TRAIN, VALIDATION, TEST)
            },
        },
    )


def read_data_record(folder: Path) -> dict[str, Any]:
    path = folder / DATA_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); without it the run cannot go on: start a new one") from error
    return record


def reopen_data(config: DataConfig, record: dict[str, Any], where: Path) -> PreparedData:
    """The same pictures in the same splits as data.json says, so that a run goes on as it began.

    Raises:
        RunError: pictures of the run are gone, or the label map is another.
    """
    source = open_pictures(config.source)  # the next line is as strict about the classes
    if list(source.classes) != record["labels"]:
        raise RunError(
            f"{config.source}: its classes are no longer those of {where / DATA_FILE}"
            f" ({_difference(source.classes, record['labels'])}); start a new run"
        )
    position = {source.key(index): index for index in range(len(source))}
    splits = np.full(len(source), UNASSIGNED, dtype=np.int8)
    missing: list[str] = []
    for split in (TRAIN, VALIDATION, TEST):
        for key in record["splits"][SPLIT_NAMES[split]]:
            if key in position:
                splits[position[key]] = split
            else:
                missing.append(key)
    if missing:
        raise RunError(
            f"{config.source}: {len(missing)} pictures of the run are gone, the first is {missing[0]!r};"
            " put them back, or start a new run"
        )
    return PreparedData(source, splits, record["fingerprint"], record["check"])


def _difference(now: Sequence[str], then: Sequence[str]) -> str:
    added, gone = sorted(set(now) - set(then)), sorted(set(then) - set(now))
    parts = [f"new: {', '.join(added[:3])}" if added else "", f"gone: {', '.join(gone[:3])}" if gone else ""]
    return "; ".join(part for part in parts if part) or "the order differs"
