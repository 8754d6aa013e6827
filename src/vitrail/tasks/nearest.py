"""The training pictures that a run's model finds most like another picture: an index beside the bundle, and its reader.

RUN/nearest/index.safetensors  features (N, D) float16, each of length 1: what the model's head sees (pre-logits)
                               thumbnails uint8, N JPEG files of at most 128 pixels a side, one after the other
                               offsets (N + 1) int64, where each of them begins and the last one ends
RUN/nearest/index.json         names and labels of the N pictures, and the SHA-256 of the weights and of the arrays

It belongs to the run, not to the bundle: a bundle is given away, and training pictures may be private.
"""

from __future__ import annotations

import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrail.data.loader import MAX_WORKERS, num_cores
from vitrail.data.sources.base import Source
from vitrail.data.split import TRAIN
from vitrail.errors import ImageError, RunError, WeightsError
from vitrail.inspection.nearest import Floats, nearest, unit_rows
from vitrail.storage import new_folder, remove_folder, sha256_of, to_json
from vitrail.tasks.features import forward_features_of
from vitrail.tasks.inference import ask
from vitrail.tasks.run import Run
from vitrail.weights.bundle import WEIGHTS, Bundle, read_bundle_config
from vitrail.weights.files import read_tensors, write_tensors

FOLDER, ARRAYS, RECORD = "nearest", "index.safetensors", "index.json"
FORMAT = "vitrail-nearest-1"
FEATURES = "pre-logits, what the model's head sees, each of length 1"
THUMBNAIL_SIDE = 128  # pixels at most
_SHARP_SIDE = 64  # up to here a thumbnail is the picture itself, and JPEG's coarser colours would show


@dataclass(frozen=True)
class Neighbour:
    name: str  # of the training picture, as in data.json
    label: str  # the class it is in
    similarity: float  # cosine of its features with those asked about, -1 to 1
    thumbnail: bytes  # a JPEG file


@dataclass(frozen=True)
class NearestTraining:
    """Of each of some pictures its neighbours, and how many training pictures were looked through of how many."""

    found: tuple[tuple[Neighbour, ...], ...]
    num_kept: int
    num_training: int


class NearestPictures:
    """The training pictures of a run, to be found by features; many threads may ask at once.

    Holds the features as float32, 61 MB for 20,000 of width 768; the thumbnails stay in their file until one is found.
    A question about one picture then takes some milliseconds.

    Attributes:
        num_training: how many training pictures there were; not all are in the index where they are very many.
    """

    def __init__(self, arrays: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        self._features = unit_rows(arrays["features"].numpy())
        self._thumbnails, self._offsets = arrays["thumbnails"].numpy(), arrays["offsets"].tolist()
        self._names: list[str] = record["names"]
        self._labels = [record["classes"][label] for label in record["labels"]]
        self.num_training: int = record["num_training"]

    def __len__(self) -> int:
        return len(self._names)

    def find(self, features: npt.ArrayLike, count: int) -> list[list[Neighbour]]:
        """Of each picture the `count` training pictures most like it, the most similar first; all, where there are
        fewer.

        Args:
            features: (B, D) float32, pre-logits of the same model in float32, of any length.

        Raises:
            ValueError: another D, a count below 1, or numbers that are not finite.
        """
        found = nearest(self._features, features, count)
        return [
            [self._neighbour(index, similarity) for index, similarity in zip(*row, strict=True)]
            for row in zip(found.indices.tolist(), found.similarity.tolist(), strict=True)
        ]

    def _neighbour(self, index: int, similarity: float) -> Neighbour:
        begin, end = self._offsets[index : index + 2]
        return Neighbour(self._names[index], self._labels[index], similarity, self._thumbnails[begin:end].tobytes())


def open_nearest(model: str | Path, bundle: Bundle) -> NearestPictures | None:
    """The index of a run.

    Args:
        model: what `bundle` was loaded from. Only a run's own folder has an index: who names the bundle inside it
            means what is in the bundle.

    Returns:
        None where there is none: a bundle, other weights, a run of an older version or one that keeps none.

    Raises:
        WeightsError: it was made with other weights, or is damaged.
    """
    run = Path(model)
    folder = run / FOLDER
    if not folder.is_dir() or not (run / "bundle").is_dir():
        return None
    again = f"write it again with: vitrail fit --resume {run}; or remove {folder}"
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT:
            raise WeightsError(
                f"{folder}: format {record['format']!r}, this version of vitrail reads {FORMAT!r}; {again}"
            )
        if record["weights_sha256"] != bundle.config.files.get(WEIGHTS):
            raise WeightsError(f"{folder}: its features are those of other weights than the bundle's; {again}")
        if sha256_of(folder / ARRAYS) != record["sha256"]:
            raise ValueError(f"{ARRAYS} is not what was written")
        arrays = read_tensors(folder / ARRAYS)
        _check(arrays, record)
        return NearestPictures(arrays, record)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error.strerror}); {again}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder}: damaged ({error}); {again}") from error


def _check(arrays: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError for what `NearestPictures` could not be made of, or would lie about."""
    features, thumbnails, offsets = (arrays[name] for name in ("features", "thumbnails", "offsets"))
    names, labels, classes = record["names"], record["labels"], record["classes"]
    if (features.dtype, thumbnails.dtype, offsets.dtype) != (torch.float16, torch.uint8, torch.int64):
        raise ValueError(f"arrays of {features.dtype}, {thumbnails.dtype} and {offsets.dtype}")
    count = len(features)
    if features.ndim != 2 or count < 1 or thumbnails.ndim != 1 or tuple(offsets.shape) != (count + 1,):
        shapes = ", ".join(str(tuple(array.shape)) for array in (features, thumbnails, offsets))
        raise ValueError(f"arrays of the shapes {shapes}")
    ends = offsets.tolist()
    if ends[0] != 0 or ends[-1] != len(thumbnails) or any(a >= b for a, b in itertools.pairwise(ends)):
        raise ValueError("its thumbnails do not follow one another")
    if not bool(features.isfinite().all()):
        raise ValueError("its features are not finite")
    if len(names) != count or len(labels) != count or not all(isinstance(text, str) for text in [*names, *classes]):
        raise ValueError(f"{len(names)} names and {len(labels)} labels for {count} pictures")
    if not all(type(label) is int and 0 <= label < len(classes) for label in labels):
        raise ValueError("a label is not one of its classes")
    if type(record["num_training"]) is not int:
        raise ValueError("num_training is not a number")


def write_nearest(run: Run, folder: Path) -> None:
    """Write `folder`/nearest from the weights that are kept; the bundle is there already. An older index is replaced.

    Of more training pictures than config.nearest_pictures as many of each class are taken as there are, or an equal
    share, evenly spaced in the order of the data. Pictures that cannot be read are left out, and it is said. The same
    run gives the same bytes.

    Raises:
        RunError: the folder cannot be written.
    """
    target, config, source = folder / FOLDER, run.config, run.prepared.source
    training = run.prepared.indices(TRAIN)
    chosen = training[spread_over_classes(source.labels[training], config.nearest_pictures)]
    indices, features, thumbnails = _look_at(run, chosen) if len(chosen) else (chosen, unit_rows([[]]), [])
    try:
        if not len(indices):
            remove_folder(target)
            return
        with new_folder(target) as partial:
            write_tensors(
                partial / ARRAYS,
                {
                    "features": torch.from_numpy(features.astype(np.float16)),
                    "thumbnails": torch.from_numpy(np.frombuffer(b"".join(thumbnails), dtype=np.uint8).copy()),
                    "offsets": torch.from_numpy(np.cumsum([0, *map(len, thumbnails)], dtype=np.int64)),
                },
            )
            record = {
                "format": FORMAT,
                "features": FEATURES,
                "weights_sha256": read_bundle_config(folder).weights_sha256,
                "sha256": sha256_of(partial / ARRAYS),
                "num_training": len(training),
                "classes": list(source.classes),
                "labels": source.labels[indices].tolist(),
                "names": [source.key(index) for index in indices.tolist()],
            }
            (partial / RECORD).write_bytes(to_json(record))
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written ({error.strerror}); make room, then finish with:"
            f" vitrail fit --resume {folder}"
        ) from error


def spread_over_classes(labels: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most `most` of N pictures: an equal number of each class, or all of it where it has fewer.

    What does not divide goes to the first classes. Within a class evenly spaced, from the first on.

    Args:
        labels: (N,), from 0.

    Returns:
        Positions in `labels`, ascending.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.bincount(labels)
    shares, left = np.zeros_like(counts), most
    while left:
        hungry = np.flatnonzero(shares < counts)[:left]
        given = np.minimum(counts[hungry] - shares[hungry], left // len(hungry))
        shares[hungry] += given
        left -= int(given.sum())
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    taken = [own[np.arange(share) * len(own) // max(1, share)] for own, share in zip(by_class, shares, strict=True)]
    return np.sort(np.concatenate(taken))


def _look_at(run: Run, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Floats, list[bytes]]:
    """Those of the pictures that can be read, their features of length 1, and their thumbnails."""
    model, events = run.best_model(), run.events
    answers = ask(
        model,
        run.loader_of(indices),
        run.config.preprocessing,
        forward=forward_features_of(model, "pre_logits"),
        progress=lambda done, total: events.progress("nearest pictures", done, total),
    )
    source = run.prepared.source
    # A picture is decoded a second time, but a JPEG at an eighth of its size where that is enough: less than a batch
    # of both at once would cost in another loader.
    with ThreadPoolExecutor(min(num_cores(), MAX_WORKERS), "thumbnails") as executor:
        thumbnails = list(executor.map(lambda index: _thumbnail(source, index), answers.indices.tolist()))
    is_whole = np.isfinite(answers.values).all(axis=1) & np.array([bool(one) for one in thumbnails], dtype=bool)
    num_left_out = len(indices) - int(is_whole.sum())
    if num_left_out:
        events.warning(f"left out of the nearest training pictures: {num_left_out:,} that cannot be read any more")
    features = unit_rows(answers.values[is_whole])
    return answers.indices[is_whole], features, list(itertools.compress(thumbnails, is_whole))


def _thumbnail(source: Source, index: int) -> bytes:
    """A JPEG file of at most THUMBNAIL_SIDE pixels a side; no bytes where the picture cannot be read."""
    try:
        picture = source.open(index)
        shrink = min(1.0, THUMBNAIL_SIDE / max(picture.size))
        image = picture.image(at_least=(round(picture.size[0] * shrink), round(picture.size[1] * shrink)))
    except ImageError:
        return b""
    image = image.copy()  # of pixels in memory it may be the source's own
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    is_sharp = max(image.size) <= _SHARP_SIDE
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95 if is_sharp else 80, subsampling="4:4:4" if is_sharp else "4:2:0")
    return file.getvalue()
