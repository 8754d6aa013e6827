"""The classes of ImageNet-1k, for data, for weights that come without names, and for ReaL's labels. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files


def unique_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels with their index behind those that occur more than once: ImageNet has two cranes."""
    counts = Counter(labels)
    return tuple(f"{label} ({index})" if counts[label] > 1 else label for index, label in enumerate(labels))


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k (Russakovsky et al. 2015) in the order of every published head, the order of
    their WordNet numbers: the first lemma of each, made unique."""
    return unique_labels([name for _, name in _imagenet_classes()])


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Their WordNet numbers ("n01440764"), which the folders of the data set are named after."""
    return tuple(synset for synset, _ in _imagenet_classes())


def _imagenet_classes() -> list[tuple[str, str]]:
    text = (files("vitrail.data") / "imagenet_classes.txt").read_text(encoding="utf-8")
    pairs = [line.split("\t") for line in text.splitlines()]
    return [(synset, name) for synset, name in pairs]
