"""From a checkpoint of any known layout to a model that computes the same, with its certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError, did_you_mean
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig, count_parameters
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.models.variants import SIZES
from vitrail.weights.adapters import ADAPTERS
from vitrail.weights.adapters.base import Adapter, Description
from vitrail.weights.adapters.mapping import Entry, require_shapes, tensors_are, to_native
from vitrail.weights.bundle import Bundle, BundleConfig, build_model
from vitrail.weights.certificate import Certificate, Setting, Unused
from vitrail.weights.checkpoint import Checkpoint, Choices
from vitrail.weights.sidecar import SIDECAR, Sidecar

_SHOWN = 5
# Fields of the two configs whose values change the numbers and that a reader of weights may have got wrong.
_MODEL_SETTINGS = (
    "layer_norm_eps", "activation", "num_heads", "head_dim", "qkv_bias", "pooling", "pool_prefix", "class_token",
    "position_embedding", "position_for_prefix", "patch_bias", "input_norm", "pre_logits_size", "image_size",
)  # fmt: skip
_RESNET_SETTINGS = ("std_conv_eps", "group_norm_eps", "max_pool_padding", "image_size")
_PICTURE_SETTINGS = ("mean", "std", "interpolation", "resize", "crop_fraction")


def read_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    origin: Mapping[str, object] | None = None,
    known: Sidecar | None = None,
) -> Bundle:
    """The model of a checkpoint, its labels and its preprocessing.

    Args:
        path: what `checkpoint` was opened from.
        origin: what is known of where it came from, beside what its files say; goes into the bundle's provenance.
        known: what was written down with these weights; then nothing is inferred.
    Raises:
        WeightsError: no known family, tensors missing, left over, or of another shape; each says which.
    """
    adapter, reason = recognise(checkpoint)
    description = adapter.describe(checkpoint) if known is None else _as_written(known)
    description = _as_the_caller_says(description, checkpoint.choices)
    entries = adapter.entries(description.config, checkpoint)
    native = to_native(checkpoint.tensors, entries, checkpoint.where)
    require_shapes(description.config, native, checkpoint.where)
    unused = _left_over(adapter, checkpoint, entries)
    native, notes = _in_float32(native)
    model = build_model(description.config, native, checkpoint.where)
    certificate = Certificate(
        source=checkpoint.where,
        family=adapter.title,
        reason=reason,
        architecture=describe_architecture(description.config),
        num_matched=len({name for entry in entries for name in entry.foreign}),
        num_tensors=len(native),
        unused=unused,
        fresh=tuple((entry.native, tuple(native[entry.native].shape)) for entry in entries if not entry.foreign),
        surgery=(*description.notes, *notes),
        settings=_settings(description),
        licence=description.licence,
    )
    # A bundle is passed on: it names the file it came from, not the folders around it.
    source = path.name if checkpoint.where == str(path) else checkpoint.where
    before = {} if known is None else known.provenance
    came_from = {name: value for name, value in (origin or {}).items() if value is not None}
    if "origin" in before:
        came_from["before"] = before["origin"]
    config = BundleConfig(
        model=description.config,
        labels=description.labels,
        preprocessing=description.preprocessing,
        name=checkpoint.name,
        provenance={**before, "origin": {**came_from, "weights": source, "family": adapter.title}},
        temperature=1.0 if known is None else known.temperature,
        resampling=description.resampling,
        patch_resampling=description.patch_resampling,
        licence=description.licence,
    )
    return Bundle(model, config, path, certificate)


def certify_bundle(bundle: Bundle) -> Certificate:
    """What is known of a bundle of ours that was loaded and verified."""
    config = bundle.config
    num_tensors = len(bundle.model.state_dict())
    return Certificate(
        source=str(bundle.path),
        family="vitrail",
        reason="it is a bundle, whose checksums and sample answers hold",
        architecture=describe_architecture(config.model),
        num_matched=num_tensors,
        num_tensors=num_tensors,
        settings=_settings(Description(config.model, config.preprocessing, config.labels, default_source="the bundle")),
        licence=config.licence,
    )


def _as_the_caller_says(description: Description, choices: Choices) -> Description:
    said = {"activation": choices.activation, "layer_norm_eps": choices.layer_norm_eps}
    changes: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    if changes and not isinstance(description.config, ViTConfig):
        raise WeightsError(f"{', '.join(changes)}: a {description.config.family} has no such thing; leave it out")
    sources = {**description.sources, **dict.fromkeys(changes, "the caller")}
    return replace(description, config=replace(description.config, **changes), sources=sources)


def _as_written(known: Sidecar) -> Description:
    return Description(
        config=known.model,
        preprocessing=known.preprocessing,
        labels=known.labels,
        default_source=SIDECAR,
        resampling=known.resampling,
        patch_resampling=known.patch_resampling,
        licence=known.licence,
    )


def recognise(checkpoint: Checkpoint) -> tuple[Adapter, str]:
    """The adapter for a checkpoint, and why.

    Raises:
        WeightsError: no family is known by these keys; says what they look like and which families are nearest.
    """
    family = checkpoint.choices.family
    if family is not None:
        if family not in ADAPTERS:
            known = ", ".join(ADAPTERS)
            raise WeightsError(f"unknown family '{family}'.{did_you_mean(family, ADAPTERS)} Known: {known}.")
        return ADAPTERS[family], "the caller said so"
    for adapter in ADAPTERS.values():
        reason = adapter.recognise(checkpoint)
        if reason is not None:
            return adapter, reason
    names = list(checkpoint.tensors)
    if not names:
        raise WeightsError(f"{checkpoint.where}: it holds no tensor")
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise WeightsError(
        f"{checkpoint.where}: of no family that vitrail knows. Its tensors are named {', '.join(names[:_SHOWN])}{more};"
        f" nearest: {_nearest(names)}. If it is one of them, give --from FAMILY to see what is missing."
    )


def _nearest(names: Sequence[str]) -> str:
    """The two families of which most typical names end like one of these."""
    scores = []
    for adapter in ADAPTERS.values():
        typical = [name.format(0) for name in adapter.typical]
        found = sum(any(name.endswith(wanted) for name in names) for wanted in typical)
        scores.append((found / max(1, len(typical)), found, len(typical), adapter.name))
    best = sorted(scores, key=lambda score: -score[0])[:2]
    return " and ".join(f"{name} ({found} of its {of} typical names)" for _, found, of, name in best if found) or "none"


def _left_over(adapter: Adapter, checkpoint: Checkpoint, entries: Sequence[Entry]) -> tuple[Unused, ...]:
    taken = {name for entry in entries for name in entry.foreign}
    unused, unknown = [], []
    for name, tensor in checkpoint.tensors.items():
        if name in taken:
            continue
        reason = adapter.unused(name)
        prefix = checkpoint.choices.prefix
        if reason is None and prefix is not None and not name.startswith(prefix):
            reason = "outside the tree that was asked for"
        if reason is None:
            unknown.append(f"'{name}' {tuple(tensor.shape)}")
        else:
            unused.append(Unused(name, tuple(tensor.shape), reason))
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise WeightsError(
            f"{checkpoint.where}: read as {adapter.title}, {tensors_are(len(unknown))} left over: "
            f"{', '.join(unknown[:_SHOWN])}{more}. The model would compute something else without them, so it is not"
            " loaded."
        )
    return tuple(unused)


def _in_float32(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.dtype != torch.float32})
    notes = (f"stored as {', '.join(kinds)}, computed in float32",) if kinds else ()
    return {name: tensor.float() for name, tensor in tensors.items()}, notes


def describe_architecture(config: ModelConfig) -> str:
    """ "ViT-B/16 at 224x224, 1000 classes, 86.57 M parameters"."""
    height, width = config.image_size
    classes = f"{config.num_classes:,} classes" if config.num_classes else "no head"
    seen = f"at {height}x{width}, {classes}, {count_parameters(config) / 1e6:,.2f} M parameters"
    if isinstance(config, TimmConfig):
        return f"{config.name} of timm {seen}"
    if isinstance(config, ResNetConfig):
        return f"BiT-R{config.num_layers}x{config.width_factor:g} {seen}"
    shape = (config.width, config.depth, config.mlp_size)
    size = next((name for name, known in SIZES.items() if (known.width, known.depth, known.mlp_size) == shape), None)
    what = f"ViT-{size}" if size is not None else f"ViT of width {config.width}, {config.depth} blocks"
    if config.stem == "resnet":  # three convolutions a unit, the root's and the projection
        what = f"R{3 * sum(config.stem_blocks) + 2 if config.stem_blocks else ''}+{what}"
    return f"{what}/{config.patch_size} {seen}"


def _settings(description: Description) -> tuple[Setting, ...]:
    def setting(owner: ModelConfig | Preprocessing, name: str) -> Setting:
        value = getattr(owner, name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return Setting(name, shown, description.sources.get(name, description.default_source))

    names: tuple[str, ...] = _MODEL_SETTINGS
    if not isinstance(description.config, ViTConfig):
        names = _RESNET_SETTINGS if isinstance(description.config, ResNetConfig) else ()
    settings = [setting(description.config, name) for name in names]
    settings += [setting(description.preprocessing, name) for name in _PICTURE_SETTINGS]
    source = description.sources.get("labels", description.default_source)
    labels = description.labels
    first = ", ".join(map(repr, labels[:2])) + (", ..." if len(labels) > 2 else "")
    shown = f"{len(labels):,} ({first})" if labels else "none"
    return (*settings, Setting("labels", shown, source))
