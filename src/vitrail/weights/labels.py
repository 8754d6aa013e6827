"""Names of classes for weights that come without them. Free of torch."""

from __future__ import annotations

from vitrail.data.imagenet_classes import imagenet_labels, unique_labels

__all__ = ["default_labels", "unique_labels"]

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
