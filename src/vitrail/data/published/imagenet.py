"""ImageNet-1k (Russakovsky et al. 2015) and ImageNet-21k (Deng et al. 2009), in folders named by WordNet numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from vitrail.data.imagenet_classes import imagenet_labels, imagenet_synsets
from vitrail.data.published.listing import Place, Row, class_folders, file_source, lines_of, pictures_of, read_mat
from vitrail.data.sources.base import FileSource
from vitrail.data.split import TEST, TRAIN, UNASSIGNED
from vitrail.errors import DataError

_WNID = re.compile(r"n\d{8}")
_SYNSET_LABELS = "imagenet_2012_validation_synset_labels.txt"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


def read_imagenet(place: Place) -> FileSource:
    """Up to 1,281,167 training and 50,000 validation pictures; the latter, which papers report, are the test split.

    The names of the classes are those of the published heads, so that models and pictures agree.
    """
    names = dict(zip(imagenet_synsets(), imagenet_labels(), strict=True))
    skipped: list[tuple[str, str]] = []
    rows: list[Iterator[Row]] = []
    for folder, split in (("train", TRAIN), ("val", TEST)):
        if not (place.root / folder).is_dir():
            continue
        folders = class_folders(place, folder)
        known = [wnid for wnid in folders if wnid in names]
        skipped += [(f"{folder}/{name}", "is no class of ImageNet-1k") for name in folders if name not in names]
        if folder == "val" and not known:
            rows.append(_flat(place, names))
        rows += [_of_class(place, folder, wnid, names[wnid], split) for wnid in known]
    return file_source(place, (row for part in rows for row in part), must_check=False, skipped=skipped)


def read_imagenet21k(place: Place) -> FileSource:
    """About 13 million pictures in folders named by WordNet numbers, which are the classes; not divided."""
    folders = class_folders(place, "")
    skipped = [(name, "is no WordNet number") for name in folders if not _WNID.fullmatch(name)]
    rows = (row for wnid in folders if _WNID.fullmatch(wnid) for row in _of_class(place, "", wnid, wnid, UNASSIGNED))
    return file_source(place, rows, must_check=False, skipped=skipped)


def _of_class(place: Place, folder: str, wnid: str, name: str, split: int) -> Iterator[Row]:
    return ((path, name, split) for path in pictures_of(place, f"{folder}/{wnid}" if folder else wnid))


def _flat(place: Place, names: dict[str, str]) -> Iterator[Row]:
    """val/ILSVRC2012_val_00000001.JPEG and so on: the label is in a list, by the number."""
    wnids = _validation_wnids(place)
    for path in pictures_of(place, "val"):
        match = re.fullmatch(r"val/ILSVRC2012_val_(\d{8})\.JPEG", path)
        if match is None or not 1 <= int(match.group(1)) <= len(wnids):
            raise DataError(f"{place.spec}: {path} is not one of val/ILSVRC2012_val_00000001.JPEG to {len(wnids):08}")
        yield path, names[wnids[int(match.group(1)) - 1]], TEST


def _validation_wnids(place: Place) -> list[str]:
    """The WordNet number of each validation picture, from TensorFlow's list or from the official development kit."""
    if (place.root / _SYNSET_LABELS).is_file():
        wnids = lines_of(place, _SYNSET_LABELS)
    else:
        kits = ("ILSVRC2012_devkit_t12", "devkit", ".")
        kit = next((kit for kit in kits if (place.root / kit / _TRUTH).is_file()), "")
        if not kit:
            raise DataError(
                f"{place.spec}: {place.root / 'val'} has no class folders, and there is neither"
                f" ILSVRC2012_devkit_t12/{_TRUTH} nor {_SYNSET_LABELS} that would name the classes"
            )
        numbers = _wnids_of_kit(place, kit)
        truth = lines_of(place, f"{kit}/{_TRUTH}")
        wnids = [numbers.get(line, line) for line in truth]
    known = set(imagenet_synsets())
    unknown = next((wnid for wnid in wnids if wnid not in known), None)
    if unknown is not None:
        raise DataError(f"{place.spec}: {unknown!r} in the list of validation labels is no class of ImageNet-1k")
    return wnids


def _wnids_of_kit(place: Place, kit: str) -> dict[str, str]:
    """The kit's own numbers, 1 to 1000 and in no known order, by its meta.mat."""
    (synsets,) = read_mat(place, f"{kit}/data/meta.mat", "synsets")
    fields = synsets.dtype.names or ()
    if not {"ILSVRC2012_ID", "WNID"} <= set(fields):
        raise DataError(f"{place.spec}: {kit}/data/meta.mat has no fields ILSVRC2012_ID and WNID")
    try:
        return {str(int(entry["ILSVRC2012_ID"])): str(entry["WNID"]) for entry in np.atleast_1d(synsets)}
    except (TypeError, ValueError) as error:
        raise DataError(f"{place.spec}: {kit}/data/meta.mat has an ILSVRC2012_ID that is no number: {error}") from error
