"""Names of classes for weights that come without them. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

_NUM_IMAGENET = 1000


def default_labels(num_classes: int) -> tuple[str, ...]:
    """Names for the logits of a head that comes without: ImageNet-1k's for 1000 of them, else "class 0", "class 1", ...

    A head of 1000 classes is ImageNet-1k's in every published checkpoint that `weights.adapters` reads; whoever has
    another says so with --labels. Numbers are zero-padded, so that the names sort in their order.
    """
    if num_classes == _NUM_IMAGENET:
        return imagenet_labels()
    digits = len(str(max(0, num_classes - 1)))
    return tuple(f"class {index:0{digits}}" for index in range(num_classes))


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
    text = (files("vitrail.weights") / "imagenet_labels.txt").read_text(encoding="utf-8")
    pairs = [line.split("\t") for line in text.splitlines()]
    return [(synset, name) for synset, name in pairs]
