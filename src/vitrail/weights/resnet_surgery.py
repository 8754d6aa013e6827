"""Fitting a ResNet's trained weights to another task: another head, channels, pictures of another size."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.layers.patch_embed import adapt_input_channels
from vitrail.layers.position_embed import resample_position_embedding
from vitrail.models.build import build_model
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_config import ResNetConfig
from vitrail.weights.bundle import Bundle

_FREE = {"image_size", "num_classes", "in_channels", "head_bias_init"}
_HEAD = "head."
_INPUT_KERNEL = "stem.conv.weight"


def adapt_resnet(bundle: Bundle, config: ModelConfig, labels: tuple[str, ...]) -> tuple[ResNet, list[str]]:
    """As `surgery.adapt`, where one of the two is a ResNet.

    Pictures of another size change nothing but the relative positions of axial attention, which are stretched.

    Raises:
        WeightsError: an architecture that these weights do not fit; names the fields.
    """
    old = bundle.config.model
    if not isinstance(old, ResNetConfig) or not isinstance(config, ResNetConfig):
        raise WeightsError(
            f"{bundle.path}: these weights are of a {old.family}, and the model asked for is a {config.family}"
        )
    before, after = asdict(old), asdict(config)
    differing = [name for name in after if name not in _FREE and before.get(name) != after[name]]
    if differing:
        fields = ", ".join(f"{name} {before.get(name)} -> {after[name]}" for name in differing)
        raise WeightsError(f"{bundle.path}: these weights do not fit the model asked for: {fields}")
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in bundle.model.state_dict().items()
    }
    sentences = []
    if old.in_channels != config.in_channels:
        tensors[_INPUT_KERNEL] = adapt_input_channels(tensors[_INPUT_KERNEL], config.in_channels)
        # A standardised kernel is not the sum of its standardised parts: only about the same answers come out.
        sentences.append(
            f"input channels {old.in_channels} -> {config.in_channels}, whose kernel's standardisation changes the"
            " answers a little"
        )
    if labels != bundle.config.labels or old.num_classes != config.num_classes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_HEAD)}
        sentences.append(f"head fresh, {config.num_classes} classes" if config.num_classes else "head left out")
    model = build_model(config, initialize=False)
    assert isinstance(model, ResNet)
    model.head.initialize(None)
    if _stretch_positions(tensors, model.state_dict()):
        grids = (f"{size[0]}x{size[1]}" for size in (old.image_size, config.image_size))
        sentences.append(f"relative positions of {' -> '.join(grids)} pixels, linear")
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_HEAD)}
    model.load_state_dict({**fresh, **tensors}, assign=True)
    return model.train(), sentences


def _stretch_positions(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Sample tables of offsets where the offsets of longer or shorter lines stand in them; whether there were any.

    The offset 0 stays what it was, and so do the furthest ones, from one end of a line to the other.
    """
    changed = [name for name, tensor in wanted.items() if name in tensors and tensors[name].shape != tensor.shape]
    for name in changed:
        table = tensors[name][None]
        lines = (1, table.shape[1]), (1, wanted[name].shape[0])
        tensors[name] = resample_position_embedding(table, *lines, 0)[0]
    return bool(changed)
