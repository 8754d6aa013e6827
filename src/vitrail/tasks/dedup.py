"""What of one data set is in another, or twice in itself; see docs/dedup.md."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vitrail.data.copies import DEFAULT_DISTANCE, Pair, pairs_by_hash, same_files
from vitrail.data.fingerprints import Fingerprints, fingerprint
from vitrail.data.hamming import MAX_DISTANCE
from vitrail.data.loader import Loader
from vitrail.data.neighbours import similar_pairs
from vitrail.data.sources import open_source
from vitrail.data.sources.base import Source, shown
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError, DataError
from vitrail.tasks.inference import ask
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle
from vitrail.weights.load import load

# A choice, not a measurement: no source states one for features of a classifier. SSCD's 0.75 is for a network that was
# trained to tell copies from lookalikes; features of a classifier are far more alike within a class.
DEFAULT_THRESHOLD = 0.95
MAX_SIMILAR = 1_000_000  # pairs; more say that the threshold is too low for the backbone


@dataclass(frozen=True)
class DedupConfig:
    train: str  # as DataConfig.source
    against: str | None = None  # the test set; None: copies within `train`
    by: Literal["hash", "embedding"] = "hash"
    distance: int = DEFAULT_DISTANCE  # bits of 64 in which hashes of a proposed pair may differ
    mirrored: bool = False  # look for pictures mirrored left to right, too; by hash
    backbone: str | None = None  # any weights, of `by` embedding
    threshold: float = DEFAULT_THRESHOLD  # least cosine, of `by` embedding
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= MAX_DISTANCE:
            raise ConfigError(f"distance {self.distance} is not between 0 and {MAX_DISTANCE} bits")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold} is not above 0 and at most 1")
        if self.by == "embedding" and self.backbone is None:
            raise ConfigError("--by embedding needs --backbone: weights whose features are compared")
        if self.by == "hash" and self.backbone is not None:
            raise ConfigError("--backbone is of --by embedding; add it, or leave the backbone out")
        if self.by == "embedding" and self.mirrored:
            raise ConfigError("--mirrored is of --by hash; a backbone sees mirrored pictures as alike without it")


@dataclass(frozen=True, eq=False)
class DedupResult:
    config: DedupConfig
    first: Source
    second: Source | None  # None: within the first
    pairs: tuple[Pair, ...]  # equal files first, then the surest
    keep_first: npt.NDArray[np.bool_]  # (N,) readable and without a copy in the second set
    keep_second: npt.NDArray[np.bool_]  # (M,) readable and without a copy in the first set, or in an earlier picture
    broken: tuple[tuple[str, str], ...]  # (key, why)
    num_leaking: tuple[int, int]  # readable pictures that are not kept, of each set

    @property
    def other(self) -> Source:
        return self.first if self.second is None else self.second

    def labels(self, pair: Pair) -> tuple[str, str]:
        first, second = self.first, self.other
        return first.classes[first.labels[pair.first]], second.classes[second.labels[pair.second]]

    def to_json(self) -> dict[str, Any]:
        kinds = sorted({pair.kind for pair in self.pairs})
        return {
            "train": self.config.train,
            "against": self.config.against,
            "by": self.config.by,
            "num_pictures": [len(self.first)] + ([] if self.second is None else [len(self.second)]),
            "num_pairs": {kind: sum(pair.kind == kind for pair in self.pairs) for kind in kinds},
            "num_leaking": list(self.num_leaking) if self.second is not None else [self.num_leaking[1]],
            "broken": [{"file": file, "why": why} for file, why in self.broken],
            "pairs": [
                {
                    "first": self.first.key(pair.first),
                    "second": self.other.key(pair.second),
                    "kind": pair.kind,
                    "distance": round(pair.distance, 6),
                    "residual": round(pair.residual, 6),
                    "labels": list(self.labels(pair)),
                }
                for pair in self.pairs
            ],
        }


def dedup(config: DedupConfig, events: Events) -> DedupResult:
    """Compare every picture of `train` with every one of `against`, or with every other one of its own.

    Raises:
        DataError: nothing that can be listed. WeightsError: the backbone cannot be read.
    """
    first = open_source(config.train, progress=events.download)
    second = None if config.against is None else open_source(config.against, progress=events.download)
    bundle = None if config.backbone is None else load(config.backbone, progress=events.download)
    prints_1 = _look(first, config.train, events)
    prints_2 = None if second is None else _look(second, config.against or "", events)
    exact, leaders_1, leaders_2 = same_files(prints_1, prints_2)
    if bundle is not None:
        near = _by_embedding(config, bundle, (first, second), (leaders_1, leaders_2), events)
        told = {(int(leaders_1[pair.first]), int(leaders_2[pair.second])) for pair in exact}
        near = [pair for pair in near if (pair.first, pair.second) not in told]
    else:
        near = pairs_by_hash(
            prints_1,
            prints_2,
            config.distance,
            config.mirrored,
            progress=lambda done, total: events.progress("comparing", done, total),
        )
    pairs = (*exact, *near)
    usable = prints_1.usable, (prints_1 if prints_2 is None else prints_2).usable
    if second is None:
        keep_1 = keep_2 = _without_copies(usable[0], pairs)
    else:
        keep_1 = _without(usable[0], leaders_1, np.array([pair.first for pair in pairs], dtype=np.int64))
        keep_2 = _without(usable[1], leaders_2, np.array([pair.second for pair in pairs], dtype=np.int64))
    broken = _broken(first, prints_1) + (_broken(second, prints_2) if second is not None and prints_2 else ())
    lost = int((usable[0] & ~keep_1).sum()), int((usable[1] & ~keep_2).sum())
    return DedupResult(config, first, second, pairs, keep_1, keep_2, broken, lost)


def _look(source: Source, spec: str, events: Events) -> Fingerprints:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    phase = f"looking at {shown(source.name)}"
    prints = fingerprint(source, cores, lambda done, total: events.progress(phase, done, total))
    for index, cause in sorted(prints.broken.items()):
        events.warning(f"left out: {shown(source.key(index))}: {cause}")
    if not prints.usable.any():
        raise DataError(f"{shown(spec)}: none of its {len(source):,} pictures can be read")
    return prints


def _by_embedding(
    config: DedupConfig,
    bundle: Bundle,
    sources: tuple[Source, Source | None],
    leaders: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    events: Events,
) -> list[Pair]:
    rows_1, features_1 = _features(config, bundle, sources[0], leaders[0], events)
    rows_2, features_2 = rows_1, features_1
    if sources[1] is not None:
        rows_2, features_2 = _features(config, bundle, sources[1], leaders[1], events)
    pairs = []
    found = similar_pairs(
        features_1,
        features_2,
        config.threshold,
        progress=lambda done, total: events.progress("comparing", done, total),
    )
    for one, other, cosines in found:
        wanted = one < other if sources[1] is None else np.ones(len(one), dtype=bool)
        rows = zip(rows_1[one[wanted]].tolist(), rows_2[other[wanted]].tolist(), cosines[wanted].tolist(), strict=True)
        pairs += [Pair(first, second, "similar", cosine, 1 - cosine) for first, second, cosine in rows]
        if len(pairs) > MAX_SIMILAR:
            raise DataError(
                f"more than {MAX_SIMILAR:,} pairs have a cosine of {config.threshold:g} with {config.backbone}, so it"
                " does not tell copies from lookalikes; raise --threshold, or compare by hash"
            )
    return sorted(pairs, key=lambda pair: (-pair.distance, pair.first, pair.second))


def _features(
    config: DedupConfig, bundle: Bundle, source: Source, leaders: npt.NDArray[np.int64], events: Events
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Of the first picture of each group of equal files, ascending; equal files are pairs without them."""
    model, preprocessing = bundle.model, bundle.config.preprocessing
    answers = ask(
        model,
        Loader(source, np.unique(leaders), EvaluationTransform(preprocessing), batch_size=config.batch_size, seed=0),
        preprocessing,
        forward=lambda images: model.forward_head(model.forward_features(images), pre_logits=True),
        progress=lambda done, total: events.progress(f"features of {shown(source.name)}", done, total),
    )
    order = np.argsort(answers.indices, kind="stable")
    return answers.indices[order], answers.values[order]


def _without(
    usable: npt.NDArray[np.bool_], leaders: npt.NDArray[np.int64], leaking: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Readable pictures of which neither they nor an equal file are in a pair."""
    leaks = np.zeros(len(usable), dtype=bool)
    leaks[leaders[leaking]] = True
    return np.asarray(usable & ~leaks[leaders])


def _without_copies(usable: npt.NDArray[np.bool_], pairs: tuple[Pair, ...]) -> npt.NDArray[np.bool_]:
    """Readable pictures but those that are a copy of an earlier one that is kept."""
    keep = usable.copy()
    for pair in sorted(pairs, key=lambda pair: (pair.second, pair.first)):
        if keep[pair.first]:
            keep[pair.second] = False
    return keep


def _broken(source: Source, prints: Fingerprints) -> tuple[tuple[str, str], ...]:
    return tuple((source.key(index), cause) for index, cause in sorted(prints.broken.items()))
