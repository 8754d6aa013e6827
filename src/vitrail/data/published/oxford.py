"""Data sets of the Visual Geometry Group: Pets (Parkhi et al. 2012), Flowers 102 (Nilsback and Zisserman 2008), DTD
(Cimpoi et al. 2014)."""

from __future__ import annotations

from importlib.resources import files

from vitrail.data.published.listing import Place, file_source, lines_of, read_mat, whole_numbers
from vitrail.data.sources.base import FileSource
from vitrail.data.split import TEST, TRAIN, VALIDATION
from vitrail.errors import DataError


def read_pets(place: Place) -> FileSource:
    """3,680 training and 3,669 test pictures of 37 breeds; a breed's name is the file's before its number."""
    rows = []
    for file, split in (("annotations/trainval.txt", TRAIN), ("annotations/test.txt", TEST)):
        for line in lines_of(place, file):
            picture = line.split()[0]
            breed, _, number = picture.rpartition("_")
            if not breed or not number.isdigit() or "/" in picture:
                raise DataError(f"{place.spec}: {place.root / file} has the line {line!r}, not 'Breed_1 1 1 1'")
            rows.append((f"images/{picture}.jpg", breed.replace("_", " ").lower(), split))
    return file_source(place, rows, must_check=True)


def read_flowers(place: Place) -> FileSource:
    """1,020 training, 1,020 validation and 6,149 test pictures of 102 flowers, numbered by the publisher."""
    (labels,) = read_mat(place, "imagelabels.mat", "labels")
    train, validation, test = read_mat(place, "setid.mat", "trnid", "valid", "tstid")
    labels = whole_numbers(place, "imagelabels.mat", labels)
    names = (files("vitrail.data.published") / "flowers_classes.txt").read_text(encoding="utf-8").splitlines()
    rows = []
    for numbers, split in ((train, TRAIN), (validation, VALIDATION), (test, TEST)):
        for number in whole_numbers(place, "setid.mat", numbers).tolist():
            if not 1 <= number <= len(labels):
                raise DataError(f"{place.spec}: setid.mat names picture {number}, imagelabels.mat has {len(labels):,}")
            if not 1 <= labels[number - 1] <= len(names):
                raise DataError(
                    f"{place.spec}: imagelabels.mat has the class {labels[number - 1]}, not 1 to {len(names)}"
                )
            rows.append((f"jpg/image_{number:05}.jpg", names[labels[number - 1] - 1], split))
    return file_source(place, rows, must_check=True)


def read_dtd(place: Place) -> FileSource:
    """1,880 training, validation and test pictures each of 47 textures: the first of the publisher's ten divisions."""
    rows = []
    for name, split in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
        for line in lines_of(place, f"labels/{name}1.txt"):
            texture, separator, picture = line.partition("/")
            if not separator or "/" in picture or ".." in (texture, picture):
                raise DataError(f"{place.spec}: labels/{name}1.txt has the line {line!r}, not '<class>/<picture>'")
            rows.append((f"images/{line}", texture, split))
    return file_source(place, rows, must_check=True)
