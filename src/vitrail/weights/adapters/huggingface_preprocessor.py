"""preprocessor_config.json of Hugging Face transformers: what is done to pictures, read and written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vitrail.data.config import Interpolation, Preprocessing
from vitrail.errors import WeightsError
from vitrail.weights.adapters.base import FAMILY_RULE
from vitrail.weights.adapters.evaluation_rules import HALF, IMAGENET_MEAN, IMAGENET_STD, crop_fraction
from vitrail.weights.checkpoint import Checkpoint

PREPROCESSOR = "preprocessor_config.json"
RESCALE_FACTOR = 1 / 255
_RESAMPLE: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_FLAGS = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": RESCALE_FACTOR}

# What transformers' image processors take where their file says nothing.
VIT = {**_FLAGS, "size": {"height": 224, "width": 224}, "resample": 2, "image_mean": HALF, "image_std": HALF}
_CUT_224: dict[str, Any] = {**_FLAGS, "resample": 3, "do_center_crop": True, "crop_size": 224}
DEIT = {**_CUT_224, "size": {"height": 256, "width": 256}, "image_mean": HALF, "image_std": HALF}
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BIT = {**_CUT_224, "size": {"shortest_edge": 224}, "image_mean": _CLIP[0], "image_std": _CLIP[1]}
_PROCESSORS: dict[str, Mapping[str, Any]] = {"ViT": VIT, "DeiT": DEIT, "Beit": DEIT, "Bit": BIT, "CLIP": BIT}
# What evaluation did where there is no file at all: DeiT, MAE and DINOv2 in their own code.
IMAGENET_CUT = {**_CUT_224, "size": {"shortest_edge": 256}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}


def read_preprocessing(
    checkpoint: Checkpoint, image_size: tuple[int, int], in_channels: int, rule: Mapping[str, Any]
) -> tuple[Preprocessing, dict[str, str], tuple[str, ...]]:
    """What evaluation does to pictures of `image_size` (height, width).

    Args:
        rule: what is done where there is no preprocessor_config.json.
    Returns:
        The preprocessing, where its values were taken from, and sentences for what is not exactly as the file says.
    Raises:
        WeightsError: something that Preprocessing cannot say; names the field.
    """
    file = checkpoint.files.get(PREPROCESSOR)
    if file is None:
        # The rule is of whatever size the model takes.
        where, said, source = checkpoint.where, rule, FAMILY_RULE
    else:
        where, source = f"{checkpoint.where}: {PREPROCESSOR}", PREPROCESSOR
        said = {**_defaults(where, file, rule), **{name: value for name, value in file.items() if value is not None}}
    notes: list[str] = []
    try:
        preprocessing = _preprocessing(where, said, image_size, in_channels, notes, is_rule=file is None)
    except (ValueError, TypeError, OverflowError) as error:  # ConfigError is a ValueError
        raise WeightsError(f"{where} cannot be read ({error})") from error
    return (
        preprocessing,
        dict.fromkeys(("mean", "std", "interpolation", "resize", "crop_fraction"), source),
        tuple(notes),
    )


def _preprocessing(
    where: str,
    said: Mapping[str, Any],
    image_size: tuple[int, int],
    in_channels: int,
    notes: list[str],
    *,
    is_rule: bool,
) -> Preprocessing:
    _require_rescaling(where, said)
    mean, std = _mean_and_std(where, said, in_channels, notes)
    cut, resized = _sizes(where, said, notes)
    if cut is not None and cut != image_size and not is_rule:
        notes.append(
            f"{PREPROCESSOR} makes pictures of {cut[0]}x{cut[1]} pixels; the model, and so its pictures, are of"
            f" {image_size[0]}x{image_size[1]}"
        )
    return Preprocessing(
        image_size=image_size,
        resize="squash" if resized is None or cut is None else "crop",
        crop_fraction=1.0 if resized is None or cut is None else crop_fraction(cut[0], resized),
        interpolation=_interpolation(where, said),
        mean=mean,
        std=std,
    )


def _defaults(where: str, file: Mapping[str, Any], rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the processor that the file is of takes where the file says nothing."""
    name = file.get("image_processor_type") or file.get("feature_extractor_type")
    if name is None:
        return rule
    match = re.fullmatch(r"(\w+?)(?:ImageProcessor|FeatureExtractor)(?:Fast|Pil)?", str(name))
    if match is None or match[1] not in _PROCESSORS:
        raise WeightsError(
            f"{where} is of {name}, which may prepare pictures in a way of its own; vitrail reads those of"
            f" {', '.join(_PROCESSORS)}"
        )
    return _PROCESSORS[match[1]]


def _require_rescaling(where: str, said: Mapping[str, Any]) -> None:
    factor = said["rescale_factor"]
    if not said["do_rescale"] or not math.isclose(factor, RESCALE_FACTOR, rel_tol=1e-6) or said.get("rescale_offset"):
        raise WeightsError(
            f"{where} says do_rescale {said['do_rescale']}, rescale_factor {factor}, rescale_offset"
            f" {said.get('rescale_offset', False)}; vitrail divides pixels by 255. Fold the factor into image_mean and"
            " image_std there"
        )


def _mean_and_std(
    where: str, said: Mapping[str, Any], in_channels: int, notes: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    num_channels = 1 if in_channels == 1 else 3
    if in_channels not in (1, 3):
        notes.append(f"pictures have 1 or 3 channels, the model takes {in_channels}: prepare its input yourself")
        return HALF, HALF
    if not said["do_normalize"]:
        return (0.0,) * num_channels, (1.0,) * num_channels
    mean, std = (_channels(where, said, name, num_channels) for name in ("image_mean", "image_std"))
    return mean, std


def _channels(where: str, said: Mapping[str, Any], name: str, num_channels: int) -> tuple[float, ...]:
    value = said[name]
    values = tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)
    if len(values) != num_channels and len(set(values)) == 1:
        return (values[0],) * num_channels
    if len(values) != num_channels:
        raise WeightsError(f"{where} says {name} {list(values)} for pictures of {num_channels} channels")
    return values


def _interpolation(where: str, said: Mapping[str, Any]) -> Interpolation:
    resample = said["resample"]
    if not isinstance(resample, int) or resample not in _RESAMPLE:
        raise WeightsError(
            f"{where} says resample {resample!r}; vitrail resizes pictures with 2 (bilinear) or 3 (bicubic) only"
        )
    return _RESAMPLE[resample]


def _sizes(where: str, said: Mapping[str, Any], notes: list[str]) -> tuple[tuple[int, int] | None, int | None]:
    """The pictures' size in the end, None where the file leaves it open; and what the short side is resized to before
    the cut, None where pictures are squashed."""
    crops = bool(said.get("do_center_crop", False))
    if not said["do_resize"]:
        if crops:
            raise WeightsError(f"{where} says do_resize false and do_center_crop true; vitrail resizes before it cuts")
        notes.append(f"{PREPROCESSOR} leaves pictures at their own size; they are squashed to the model's")
        return None, None
    size, shortest = _edges(where, said, "size")
    if not crops:
        if shortest is not None or size is None:
            raise WeightsError(
                f"{where} says size {said['size']} without do_center_crop, which gives pictures of no fixed size"
            )
        return size, None
    cut = _edges(where, said, "crop_size")[0]
    if cut is None:
        raise WeightsError(f"{where} says crop_size {said['crop_size']}, which is no height and width")
    if size == cut:
        return size, None
    if shortest is None and size is not None and size[0] == size[1]:
        shortest = size[0]
        notes.append(
            f"{PREPROCESSOR} squashes pictures to {size[0]}x{size[1]} before it cuts; here their short side becomes"
            f" {shortest}, so that they keep their shape"
        )
    if shortest is None or cut[0] != cut[1] or shortest < cut[0]:
        raise WeightsError(
            f"{where} says size {said['size']} and crop_size {said['crop_size']}; vitrail cuts squares out of pictures"
            " whose short side is at least as long"
        )
    return cut, shortest


def _edges(where: str, said: Mapping[str, Any], name: str) -> tuple[tuple[int, int] | None, int | None]:
    """((height, width), None), or (None, length of the short side)."""
    value = said[name]
    if isinstance(value, Mapping):
        if set(value) == {"height", "width"}:
            return (int(value["height"]), int(value["width"])), None
        if set(value) == {"shortest_edge"}:
            return None, int(value["shortest_edge"])
    elif isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return (int(value[0]), int(value[1])), None
    elif isinstance(value, int) and not isinstance(value, bool):
        # One number: a square to ViT's and DeiT's processors and to every cut, the short side to BiT's and CLIP's.
        kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "ViT")
        is_square = name == "crop_size" or kind.startswith(("ViT", "DeiT", "Beit"))
        return ((value, value), None) if is_square else (None, value)
    raise WeightsError(f"{where} says {name} {value}; vitrail reads a number, 'height' and 'width', or 'shortest_edge'")


def write_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json. Raises WeightsError for what transformers' processors cannot do; names the field."""
    height, width = preprocessing.image_size
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": next(number for number, name in _RESAMPLE.items() if name == preprocessing.interpolation),
        "do_rescale": True,
        "rescale_factor": RESCALE_FACTOR,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if preprocessing.resize == "squash":
        return values
    if height != width:
        raise WeightsError(
            f"resize 'crop' of a rectangle, {height}x{width} pixels: transformers' processors know one short side, and"
            " here either side may decide. Write a bundle of vitrail, or a model whose preprocessing squashes"
        )
    # ViT's processor does not cut; BiT's keeps the aspect and does.
    return {
        **values,
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": math.floor(height / preprocessing.crop_fraction)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_convert_rgb": len(preprocessing.mean) == 3,
    }
