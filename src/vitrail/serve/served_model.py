"""The model behind a server, and all it can say about a picture: answers, features, attention, neighbours."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vitrail.configuration import to_dict
from vitrail.data.images import open_picture, picture_from_array
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines.base import Prepared
from vitrail.engines.choice import choose_engine
from vitrail.engines.config import EngineName, InferenceConfig, Precision
from vitrail.inspection.maps import attention_maps
from vitrail.inspection.rollout import attention_rollout
from vitrail.models.vit import VisionTransformer
from vitrail.serve.config import ServeConfig
from vitrail.tasks.inference import load_classifier
from vitrail.tasks.nearest import NearestPictures, open_nearest
from vitrail.tasks.predictor import Predictor
from vitrail.tasks.track_record import TrackRecord, read_track_record
from vitrail.training.events import Events
from vitrail.weights.bundle import WEIGHTS, Bundle, sample_pictures

_PICTURE_QUALITY = 90  # of the JPEG that shows what the model saw


@dataclass(frozen=True)
class Query:
    """What is asked about one picture.

    Attributes:
        image: (C, H, W) uint8, as the model sees it.
        with_features, with_attention: besides the logits.
    """

    image: npt.NDArray[np.uint8]
    with_features: bool = False
    with_attention: bool = False


@dataclass(frozen=True)
class Reply:
    """Rows of one picture: logits (K,), features (D,) where asked for, and the attention as JSON."""

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None = None
    attention: dict[str, Any] | None = None


class ServedModel:
    """Loaded once; `answer` is called by one thread, the rest by any.

    Attributes:
        predictor: reads pictures and answers.
        record: of the run's test pictures; None where the model is no run.
    """

    def __init__(
        self,
        predictor: Predictor,
        record: TrackRecord | None,
        neighbours: NearestPictures | None,
        description: dict[str, Any],
    ) -> None:
        self.predictor, self.record, self._neighbours = predictor, record, neighbours
        self._description = description
        model = predictor.bundle.model
        self.has_attention = isinstance(model, VisionTransformer) and model.config.attention == "global"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.labels

    @property
    def has_nearest(self) -> bool:
        """Whether it knows training pictures to compare with."""
        return self._neighbours is not None

    @property
    def version(self) -> str:
        """The start of the weights' SHA-256, or what stands for it: which model answered."""
        return str(self._description["version"])

    def describe(self) -> dict[str, Any]:
        """For GET /v1/model."""
        return {
            **self._description,
            "has_attention": self.has_attention,
            "has_track_record": self.record is not None,
            "has_nearest": self.has_nearest,
        }

    def answer(self, queries: Sequence[Query]) -> list[Reply]:
        """A batch's replies, in its order."""
        with_features = any(query.with_features for query in queries)
        logits, features = self.predictor.ask(np.stack([query.image for query in queries]), with_features=with_features)
        return [
            Reply(
                logits[row],
                features[row] if features is not None and query.with_features else None,
                self._attention(query.image) if query.with_attention else None,
            )
            for row, query in enumerate(queries)
        ]

    def predictions(self, files: list[str], replies: Sequence[Reply], top_k: int, nearest: int) -> list[dict[str, Any]]:
        """Answers as JSON: those of `predict`, and what else was asked for.

        Args:
            nearest: how many training pictures beside each; needs features in the replies.
        """
        if not replies:
            return []
        logits = np.stack([reply.logits for reply in replies])
        found = []
        for prediction, reply in zip(self.predictor.predict(files, logits, top_k), replies, strict=True):
            values = prediction.to_json()
            found.append(values)
            if prediction.probability is None:
                continue
            if self.record is not None:
                values["record"] = dataclasses.asdict(self.record.of(prediction.probability))
            if reply.attention is not None:
                values["attention"] = reply.attention
            if nearest and self._neighbours is not None and reply.features is not None:
                neighbours = self._neighbours.find(reply.features[None], nearest)[0]
                values["nearest"] = [
                    {**dataclasses.asdict(one), "thumbnail": base64.b64encode(one.thumbnail).decode()}
                    for one in neighbours
                ]
        return found

    def _attention(self, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Rollout through each depth and every head's map, each as bytes of its own largest value."""
        model = self.predictor.bundle.model
        assert isinstance(model, VisionTransformer)
        images = self.predictor.normalized(image[None])
        rollout = attention_rollout(model, images).maps[:, 0].cpu().numpy()
        layers = attention_maps(model, images)
        heads = np.stack([layer.weights[0].cpu().numpy() for layer in layers])
        return {
            "grid": list(model.config.grid),
            "depth": heads.shape[0],
            "heads": heads.shape[1],
            "source": layers[-1].source,
            "rollout": _as_bytes(rollout),
            "maps": _as_bytes(heads),
            "picture": _as_jpeg(image),
        }


def load_served_model(config: ServeConfig, events: Events) -> ServedModel:
    """Read the model, and prepare an engine where one is asked for.

    Raises:
        WeightsError: no model that can be trusted, or one without a head. ConfigError: an engine that cannot do it.
    """
    bundle = load_classifier(config.model, events)
    prepared, engine = _prepared(bundle, config, events)
    predictor = Predictor(bundle, prepared, config.limits)
    neighbours = open_nearest(config.model, bundle)
    return ServedModel(predictor, read_track_record(config.model), neighbours, _describe(bundle, engine))


def _prepared(bundle: Bundle, config: ServeConfig, events: Events) -> tuple[Prepared | None, str]:
    """An engine for batches, checked on the bundle's own sample pictures; what answers, in words."""
    if config.engine == "model":
        return None, "the model itself, float32"
    engines: tuple[EngineName, ...] | None = None if config.engine == "auto" else (config.engine,)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if config.precision == "auto" else (config.precision,)
    choice = choose_engine(
        bundle,
        InferenceConfig(batch_size=config.batch_size),
        near_on=_samples(bundle),
        engines=engines,
        precisions=precisions,
        progress=lambda done, total: events.progress("trying engines", done, total),
    )
    said = str(choice.prepared.description)
    events.note(f"engine: {said}")
    return choice.prepared, said


def _samples(bundle: Bundle) -> torch.Tensor:
    """The pictures that the bundle was saved with, or made-up ones, as the model sees them: (N, C, H, W) uint8."""
    transform = EvaluationTransform(bundle.config.preprocessing)
    opened = [
        open_picture(pixels, name) if isinstance(pixels, bytes) else picture_from_array(pixels, name)
        for name, pixels in sample_pictures(bundle)
    ]
    return torch.from_numpy(np.stack([transform(picture) for picture in opened]))


def _version(bundle: Bundle) -> str:
    """The start of the SHA-256 of the weights: of their file in a bundle, else of the tensors."""
    known = bundle.config.files.get(WEIGHTS)
    if known is None:
        digest = hashlib.sha256()
        for name, tensor in bundle.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        known = digest.hexdigest()
    return known[:12]


def _describe(bundle: Bundle, engine: str) -> dict[str, Any]:
    config = bundle.config
    return {
        "name": config.name,
        "version": _version(bundle),
        "labels": list(config.labels),
        "architecture": {"family": config.model.family, **to_dict(config.model)},
        "num_parameters": sum(parameter.numel() for parameter in bundle.model.parameters()),
        "preprocessing": to_dict(config.preprocessing),
        "temperature": config.temperature,
        "metrics": config.metrics,
        "provenance": config.provenance,
        "licence": config.licence,
        "engine": engine,
    }


def _as_bytes(maps: npt.NDArray[np.float64]) -> str:
    """(..., height, width) -> base64 of a byte a value, row by row, each map by its own largest value."""
    largest = maps.max(axis=(-2, -1), keepdims=True)
    return base64.b64encode((255 * maps / np.maximum(largest, 1e-30)).round().astype(np.uint8).tobytes()).decode()


def _as_jpeg(image: npt.NDArray[np.uint8]) -> str:
    pixels = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=_PICTURE_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
