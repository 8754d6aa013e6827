"""Published data sets by name: NAME, from the folder of data sets or downloaded, or NAME:FOLDER."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vitrail.data.config import ImageLimits
from vitrail.data.published.camelyon import read_camelyon
from vitrail.data.published.catalog import PUBLISHED, PublishedData
from vitrail.data.published.cifar import read_cifar10, read_cifar100
from vitrail.data.published.dmlab import read_dmlab
from vitrail.data.published.dsprites import read_location, read_orientation
from vitrail.data.published.fetch import by_hand, fetch
from vitrail.data.published.imagenet import read_imagenet, read_imagenet21k
from vitrail.data.published.kitti import read_kitti
from vitrail.data.published.listing import Place
from vitrail.data.published.norb import read_azimuth, read_elevation
from vitrail.data.published.oxford import read_dtd, read_flowers, read_pets
from vitrail.data.published.vtab_tasks import (
    read_caltech101,
    read_clevr_count,
    read_clevr_distance,
    read_eurosat,
    read_resisc45,
    read_retinopathy,
    read_sun397,
    read_svhn,
)
from vitrail.data.sources.base import Source, shown
from vitrail.download import Progress
from vitrail.errors import DataError

READERS: dict[str, Callable[[Place], Source]] = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "pets": read_pets,
    "flowers102": read_flowers,
    "imagenet": read_imagenet,
    "imagenet21k": read_imagenet21k,
    "caltech101": read_caltech101,
    "dtd": read_dtd,
    "svhn": read_svhn,
    "eurosat": read_eurosat,
    "resisc45": read_resisc45,
    "clevr-count": read_clevr_count,
    "clevr-distance": read_clevr_distance,
    "dsprites-location": read_location,
    "dsprites-orientation": read_orientation,
    "sun397": read_sun397,
    "patch-camelyon": read_camelyon,
    "retinopathy": read_retinopathy,
    "dmlab": read_dmlab,
    "kitti-distance": read_kitti,
    "smallnorb-azimuth": read_azimuth,
    "smallnorb-elevation": read_elevation,
}


def data_root() -> Path:
    """Where data sets lie that are given by name alone: VITRAIL_DATA, by default ~/.cache/vitrail/data."""
    return Path(os.environ.get("VITRAIL_DATA") or "~/.cache/vitrail/data").expanduser()


def folder_of(name: str, base: Path) -> Path:
    """Where a data set lies below a folder of several: in one of its name, or one shared with others."""
    own, shared = base / name, base / (PUBLISHED[name].shared or name)
    return own if own.exists() or not shared.exists() else shared


def open_published(spec: str, limits: ImageLimits, progress: Progress | None = None) -> Source:
    """Open a data set in its publisher's own layout.

    Args:
        progress: called while a download goes on.
    Raises:
        DataError: it is not there and cannot be downloaded, or its files are not those of the publisher; the message
            says where to get it and how it must lie.
    """
    name, colon, folder = spec.partition(":")
    data = PUBLISHED[name]
    if colon and not folder:
        raise DataError(f"{shown(spec)}: no folder after the colon; write {name}:FOLDER, or {name} alone")
    root = Path(folder).expanduser() if folder else folder_of(name, data_root())
    if not folder and not root.exists() and Path(name).is_dir():
        raise DataError(
            f"{name}: the name of a published data set, which is not in {root.parent}, and also a folder here; write"
            f" ./{name} for its class folders, or {name}:{name} if it is that data set"
        )
    if not folder and not root.exists() and data.archives:
        fetch(name, data, root, progress)
    if not root.is_dir():
        raise DataError(f"{shown(spec)}: there is no folder {root}. {by_hand(name, data, root)}")
    return READERS[name](Place(name, spec, _top(spec, data, root), limits))


def _top(spec: str, data: PublishedData, root: Path) -> Path:
    """The folder, or the publisher's own inside it, that has what the data set needs."""
    candidates = [root, *(root / top for top in data.tops if (root / top).is_dir())]
    if not data.needs:
        return candidates[-1]
    for candidate in candidates:
        if not _missing(data, candidate):
            return candidate
    missing = _missing(data, candidates[-1])
    if any((candidate / file).exists() for candidate in candidates for file in ("batches.meta", "meta")):
        raise DataError(
            f"{shown(spec)}: {root} holds the Python version, pickles, which can run code and are not opened; take the"
            f" binary version from {data.address}"
        )
    raise DataError(
        f"{shown(spec)}: {candidates[-1]} has no {missing[0].replace('|', ' and no ')}. Expected {data.layout}; from"
        f" {data.address}"
    )


def _missing(data: PublishedData, folder: Path) -> list[str]:
    return [need for need in data.needs if not any(any(folder.glob(name)) for name in need.split("|"))]
