"""What a Vision Transformer has learnt to look at, and where it looks in these pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import Picture
from vitrail.data.sources.base import FileSource
from vitrail.data.sources.pictures import find_pictures
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ConfigError, DataError, ImageError, WeightsError
from vitrail.inspection.distance import AttentionDistance, mean_attention_distance
from vitrail.inspection.features import PatchColours, patch_colours
from vitrail.inspection.filters import EmbeddingFilters, embedding_filters
from vitrail.inspection.gradients import gradient_attention
from vitrail.inspection.lens import logit_lens
from vitrail.inspection.maps import AttentionMaps, attention_maps
from vitrail.inspection.occlusion import Occlusion, occlusion
from vitrail.inspection.positions import position_similarity
from vitrail.inspection.rollout import Rollout, attention_rollout
from vitrail.inspection.shift import ShiftResponse, shift_response
from vitrail.models.kinds import ModelConfig, count_macs
from vitrail.models.vit import VisionTransformer
from vitrail.tasks.nearest import NearestPictures, NearestTraining, open_nearest
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle
from vitrail.weights.load import load

_TOP = 3
_NEAREST = 6  # training pictures beside each picture
_MOST_SHIFT = 16  # pixels, each of them asked about
# Of all answers to shifted pictures: some seconds on two cores. Of a large model they are those of two pictures.
_SHIFT_MACS, _LEAST_SHIFTED = 7e11, 2


@dataclass(frozen=True)
class InspectConfig:
    model: str  # anything that `vitrail.load` takes
    pictures: tuple[str, ...]  # files, or folders whose pictures are taken
    most: int = 16  # pictures; those that come after are left out
    occlude: bool = False  # cover each square of two patches in turn: as many answers as there are squares
    shifts_beside: str | None = None  # any model that `vitrail.load` takes, whose response to shifts is shown too

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ConfigError(f"most {self.most} is below 1: at least one picture is needed")


@dataclass(frozen=True)
class Beside:
    """Another model's response to shifts of the same pictures, as its own preprocessing makes them.

    Attributes:
        model: as it was asked for. variant: what it is, in words.
        image_size: (height, width) in pixels of what it sees.
        shifts: in pixels of what it sees.
    """

    model: str
    variant: str
    image_size: tuple[int, int]
    shifts: ShiftResponse


@dataclass(frozen=True)
class Inspection:
    """Everything the page shows, for B pictures that could be read.

    Attributes:
        model: as it was asked for.
        variant: what it is, in words.
        image_size, grid: (height, width) of what the model sees, in pixels and in patches; num_prefix_tokens: what it
            sees besides.
        files: B names; pictures: (B, height, width, channels) uint8, as the model sees them.
        answers: of each picture the most probable classes, most probable first; empty for a model without a head.
        filters, similarity: None where the model has none, and `missing` says why.
        maps: of each block; see `AttentionMaps`.
        relevance: (B, grid height, grid width), what spoke for each answer (`gradient_attention`); None without a head.
        depths: (depth, B) the most probable class after each block and its probability; None without a head.
        shifts: of the first pictures; None where they are one pixel wide. beside: None where it was not asked for.
        occluded: None where it was not asked for.
        nearest: the training pictures most like each; None where the model is no run, or one that keeps none.
        broken: (file, message) of pictures that could not be read.
        left_out: pictures beyond the number asked for.
    """

    model: str
    variant: str
    image_size: tuple[int, int]
    grid: tuple[int, int]
    num_prefix_tokens: int
    files: tuple[str, ...]
    pictures: np.ndarray
    answers: tuple[tuple[tuple[str, float], ...], ...]
    filters: EmbeddingFilters | None
    similarity: np.ndarray | None
    distance: AttentionDistance
    maps: tuple[AttentionMaps, ...]
    rollout: Rollout
    relevance: torch.Tensor | None
    colours: PatchColours
    depths: tuple[tuple[tuple[str, float], ...], ...] | None
    shifts: ShiftResponse | None
    beside: Beside | None
    occluded: Occlusion | None
    nearest: NearestTraining | None
    missing: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """The figures that are numbers rather than pictures."""
        return {
            "model": self.model,
            "variant": self.variant,
            "pictures": [
                {"file": file, "top": [{"label": label, "probability": probability} for label, probability in answer]}
                for file, answer in zip(self.files, self.answers, strict=True)
            ],
            "attention_distance_pixels": self.distance.pixels.tolist(),
            "attention_entropy_nats": [one.entropy.mean(0).tolist() for one in self.maps],
            "nearest": None
            if self.nearest is None
            else [
                [{"name": one.name, "label": one.label, "similarity": one.similarity} for one in neighbours]
                for neighbours in self.nearest.found
            ],
            "shifts": None if self.shifts is None else _shift_figures(self.shifts),
            "shifts_beside": None
            if self.beside is None
            else {
                "model": self.beside.model,
                "variant": self.beside.variant,
                "image_size": list(self.beside.image_size),
                **_shift_figures(self.beside.shifts),
            },
            "missing": list(self.missing),
            "broken": [{"file": file, "error": message} for file, message in self.broken],
            "left_out": self.left_out,
        }


def _shift_figures(response: ShiftResponse) -> dict[str, Any]:
    """Averages over the pictures, one for each shift."""
    named = {"answer_moved": response.moved, "same_answer": response.same, "feature_distance": response.turned}
    means = {name: None if rows is None else rows.double().mean(1).tolist() for name, rows in named.items()}
    return {"shift_pixels": list(response.shifts), **means}


def inspect(config: InspectConfig, events: Events) -> Inspection:
    """Look at the model itself, and at its attention on the pictures.

    Raises:
        ConfigError: a model that is no Vision Transformer with global attention.
        DataError: no picture was found, or none can be read. WeightsError: the model cannot be trusted.
    """
    source = find_pictures(config.pictures)
    bundle = _load(config.model, events)
    model = bundle.model
    if not isinstance(model, VisionTransformer) or model.config.attention != "global":
        raise ConfigError(
            f"{config.model} is no Vision Transformer whose tokens all see each other, so it has no attention to show"
        )
    beside = None if config.shifts_beside is None else _load(config.shifts_beside, events)
    indices, pixels, broken = _read(source, bundle.config.preprocessing, config.most, events)
    images = normalize(torch.from_numpy(pixels), bundle.config.preprocessing)
    with torch.inference_mode():
        answers = _answers(model(images), bundle.config.labels, bundle.config.temperature)
    has_answers = bool(answers[0])
    filters, similarity, missing = _of_the_weights(model)
    training: NearestPictures | None = None
    try:
        training = open_nearest(config.model, bundle)
    except WeightsError as error:
        missing.append(f"nearest training pictures: {error}")
    if not has_answers:
        missing.append("answers by depth, by shift and by occlusion: the model has no head, so it gives no answer")
    shifts = _shifts(model)
    num_shifted = _num_shifted([one.model.config for one in (bundle, beside) if one is not None], len(shifts))
    steps: dict[str, Callable[[], Any]] = {
        "distance": lambda: mean_attention_distance(model, images),
        "maps": lambda: attention_maps(model, images),
        "rollout": lambda: attention_rollout(model, images),
        "relevance": lambda: gradient_attention(model, images) if has_answers else None,
        "colours": lambda: patch_colours(model, images),
        "depths": lambda: _by_depth(logit_lens(model, images), bundle) if has_answers else None,
        "shifts": lambda: shift_response(model, images[:num_shifted], shifts) if shifts else None,
        "beside": lambda: (
            _beside(config, beside, [source.open(index) for index in indices[:num_shifted]], shifts, images.shape[-1])
            if beside is not None and shifts
            else None
        ),
        "occluded": lambda: occlusion(model, images, *_squares(model)) if has_answers and config.occlude else None,
        "nearest": lambda: None if training is None else _nearest(training, model, images),
    }
    found: dict[str, Any] = {}
    for name, step in steps.items():
        found[name] = step()
        events.progress("looking", len(found), len(steps))
    return Inspection(
        model=config.model,
        variant=_variant(model),
        image_size=model.config.image_size,
        grid=model.config.grid,
        num_prefix_tokens=model.config.num_prefix_tokens,
        files=tuple(map(source.key, indices)),
        pictures=pixels.transpose(0, 2, 3, 1),
        answers=answers,
        filters=filters,
        similarity=similarity,
        **found,
        missing=tuple(missing),
        broken=broken,
        left_out=max(0, len(source) - config.most),
    )


def _load(spec: str, events: Events) -> Bundle:
    bundle = load(spec, progress=events.download)
    if bundle.certificate is not None:
        events.note(f"weights: {bundle.certificate.summary()}")
    made = bundle.config.preprocessing.image_size
    if isinstance(bundle.model, VisionTransformer) and made != bundle.model.config.image_size:
        raise WeightsError(
            f"{spec}: its preprocessing makes pictures of {made}, and the model sees {bundle.model.config.image_size}"
        )
    bundle.model.eval()
    return bundle


def _read(
    source: FileSource, preprocessing: Preprocessing, most: int, events: Events
) -> tuple[list[int], np.ndarray, tuple[tuple[str, str], ...]]:
    """Indices of those of the first `most` pictures that can be read, (B, channels, height, width) uint8, and
    (file, message) of the others."""
    transform, indices, arrays, broken = EvaluationTransform(preprocessing), [], [], []
    for index in range(min(len(source), most)):
        try:
            arrays.append(transform(source.open(index)))
            indices.append(index)
        except ImageError as error:
            broken.append((source.key(index), str(error)))
        events.progress("reading", index + 1, min(len(source), most))
    if not arrays:
        raise DataError(f"none of the {len(broken):,} pictures can be read: {broken[0][1]}")
    return indices, np.stack(arrays), tuple(broken)


def _of_the_weights(model: VisionTransformer) -> tuple[EmbeddingFilters | None, np.ndarray | None, list[str]]:
    """What can be seen without a picture, and why the rest cannot."""
    filters, similarity, missing = None, None, []
    try:
        filters = embedding_filters(model)
    except ValueError as error:
        missing.append(f"embedding filters: {error}")
    try:
        similarity = position_similarity(model).numpy()
    except ValueError as error:
        missing.append(f"position similarity: {error}")
    return filters, similarity, missing


def _shifts(model: VisionTransformer) -> tuple[int, ...]:
    """In pixels: each one at first, then every half patch up to two whole ones, so that a period shows."""
    width, patch = model.config.image_size[1], model.config.image_size[1] // model.config.grid[1]
    wanted = {*range(1, _MOST_SHIFT + 1), *(patch * halves // 2 for halves in range(1, 5))}
    return tuple(sorted(shift for shift in wanted if 0 < shift < width))


def _num_shifted(models: Sequence[ModelConfig], num_shifts: int) -> int:
    """Pictures whose shifts are asked about."""
    macs = max(1, num_shifts) * sum(map(count_macs, models))
    return max(_LEAST_SHIFTED, int(_SHIFT_MACS // macs))


def _beside(
    config: InspectConfig, bundle: Bundle, pictures: Sequence[Picture], shifts: Sequence[int], width: int
) -> Beside:
    """The other model's response to the same pictures, moved by as nearly as can be the same shares of the width."""
    preprocessing = bundle.config.preprocessing
    transform = EvaluationTransform(preprocessing)
    pixels = np.stack([transform(picture) for picture in pictures])
    images = normalize(torch.from_numpy(pixels), preprocessing)
    other_width = images.shape[-1]
    # Whole pixels of its own: parts of one would blur the picture, which changes answers by itself.
    own = sorted({min(max(1, round(shift * other_width / width)), other_width - 1) for shift in shifts} - {0})
    height, family = preprocessing.image_size[0], bundle.config.model.family
    return Beside(
        model=str(config.shifts_beside),
        variant=f"{family}, pictures of {height} x {other_width}",
        image_size=(height, other_width),
        shifts=shift_response(bundle.model, images, own),
    )


def _answers(
    logits: torch.Tensor, labels: tuple[str, ...], temperature: float
) -> tuple[tuple[tuple[str, float], ...], ...]:
    if not labels or logits.shape[1] != len(labels):
        return tuple(() for _ in logits)
    probabilities, order = (logits.double() / temperature).softmax(1).sort(dim=1, descending=True, stable=True)
    return tuple(
        tuple((labels[int(place)], float(share)) for place, share in zip(row[:_TOP], shares[:_TOP], strict=True))
        for row, shares in zip(order, probabilities, strict=True)
    )


def _nearest(training: NearestPictures, model: VisionTransformer, images: torch.Tensor) -> NearestTraining:
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    found = training.find(features.numpy(), _NEAREST)
    return NearestTraining(tuple(map(tuple, found)), len(training), training.num_training)


def _by_depth(logits: torch.Tensor, bundle: Bundle) -> tuple[tuple[tuple[str, float], ...], ...]:
    """(depth, B, classes) -> of each depth and picture the most probable class."""
    config = bundle.config
    return tuple(tuple(answer[0] for answer in _answers(row, config.labels, config.temperature)) for row in logits)


def _squares(model: VisionTransformer) -> tuple[int, int]:
    """Size and stride in pixels: two patches a side, a patch from one to the next."""
    config = model.config
    patch = config.image_size[0] // config.grid[0]
    return min(2 * patch, *config.image_size), patch


def _variant(model: VisionTransformer) -> str:
    config = model.config
    height, width = config.image_size
    return (
        f"{config.depth} blocks of {config.num_heads} heads, {config.width} wide, pictures of {height} x {width},"
        f" {config.grid[0]} x {config.grid[1]} patches"
    )
