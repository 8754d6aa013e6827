"""Feature vectors of pictures in a file, for search, clustering or a head of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.configuration import to_dict
from vitrail.data.sources.pictures import find_pictures
from vitrail.engines.config import AnsweringConfig
from vitrail.errors import DataError
from vitrail.tasks.answering import find_answerer
from vitrail.tasks.features import FeatureKind, forward_features_of
from vitrail.tasks.inference import ask_in_batches, find_loader
from vitrail.tasks.vectors import open_vectors
from vitrail.training.events import Events
from vitrail.weights.load import load


@dataclass(frozen=True)
class EmbedConfig:
    model: str  # anything that `vitrail.load` takes
    pictures: tuple[str, ...]  # files, or folders whose pictures are taken
    out: str  # FILE.parquet, FILE.npy or FILE.csv
    features: FeatureKind = "pre_logits"
    layer: int | None = None  # as in `features.extract_features`
    force: bool = False  # replace a file that is there already
    batch_size: int = 32
    answering: AnsweringConfig = field(default_factory=AnsweringConfig)


@dataclass(frozen=True)
class EmbedResult:
    files: tuple[Path, ...]  # what was written, the vectors first
    num_rows: int
    num_features: int
    broken: tuple[tuple[str, str], ...]  # (file, message) of the pictures that could not be read and have no row

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [str(path) for path in self.files],
            "rows": self.num_rows,
            "features": self.num_features,
            "broken": [{"file": file, "error": message} for file, message in self.broken],
        }


def embed(config: EmbedConfig, events: Events) -> EmbedResult:
    """Write the features of the pictures, a row each, in the order in which the pictures were named.

    Rows go to the disk as they come, so memory does not grow with their number; the file gets its name when the last
    one is in, so a kill leaves either the older file or none.

    Raises:
        ConfigError: a file that is there already, no known kind of file, features that the model has not, or as
            `find_answerer`.
        DataError: no picture was found, or none can be read. WeightsError: the model cannot be trusted.
    """
    vectors = open_vectors(Path(config.out).expanduser(), config.force)
    try:
        source = find_pictures(config.pictures)
        bundle = load(config.model, progress=events.download)
        if bundle.certificate is not None:
            events.note(f"weights: {bundle.certificate.summary()}")
        forward = forward_features_of(bundle.model, config.features, config.layer)
        preprocessing = bundle.config.preprocessing
        loader, threads = find_loader(source, preprocessing, config.batch_size)
        is_plain = config.features == "pre_logits" and config.layer is None
        answerer = find_answerer(bundle, loader, "features" if is_plain else None, config.answering, events)
        broken: list[tuple[str, str]] = []
        done = num_rows = num_features = 0
        for answers in ask_in_batches(
            bundle.model,
            loader,
            preprocessing,
            forward=forward,
            prepared=answerer.prepared,
            precision=answerer.precision,
            threads=threads,
        ):
            broken += [(source.key(index), message) for index, message in answers.broken]
            if len(answers.indices):
                vectors.append([source.key(index) for index in answers.indices.tolist()], answers.values)
                num_features = answers.values.shape[1]
            num_rows += len(answers.indices)
            done += len(answers.indices) + len(answers.broken)
            events.progress("features", done, len(source))
        if num_rows == 0:
            raise DataError(f"none of the {len(source):,} pictures can be read: {broken[0][1]}")
        made_from = {
            "model": config.model,
            "weights": bundle.config.files.get("model.safetensors", ""),
            "preprocessing": to_dict(preprocessing),
            "features": config.features if config.layer is None else f"{config.features} of block {config.layer}",
            **answerer.to_json(),
        }
        return EmbedResult(vectors.finish(made_from), num_rows, num_features, tuple(broken))
    finally:
        vectors.discard()
