"""Fitting a ResNet's trained weights to another task: another head, channels, pictures of any size."""

from __future__ import annotations

from dataclasses import asdict

import torch

from vitrail.errors import WeightsError
from vitrail.layers.patch_embed import adapt_input_channels
from vitrail.models.kinds import ModelConfig
from vitrail.models.resnet import ResNet
from vitrail.models.resnet_config import ResNetConfig
from vitrail.weights.bundle import Bundle

_FREE = {"image_size", "num_classes", "in_channels", "head_bias_init"}
_HEAD = "head."
_INPUT_KERNEL = "stem.conv.weight"


def adapt_resnet(bundle: Bundle, config: ModelConfig, labels: tuple[str, ...]) -> tuple[ResNet, list[str]]:
    """As `surgery.adapt`, where one of the two is a ResNet: pictures of another size need no change.

    Raises:
        WeightsError: an architecture that these weights do not fit; names the fields.
    """
    old = bundle.config.model
    if not isinstance(old, ResNetConfig) or not isinstance(config, ResNetConfig):
        kinds = ["ResNet" if isinstance(kind, ResNetConfig) else "Vision Transformer" for kind in (old, config)]
        raise WeightsError(f"{bundle.path}: these weights are of a {kinds[0]}, and the model asked for is a {kinds[1]}")
    before, after = asdict(old), asdict(config)
    differing = [name for name in after if name not in _FREE and before[name] != after[name]]
    if differing:
        fields = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in differing)
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
    model = ResNet(config, initialize=False)
    model.head.initialize(None)
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_HEAD)}
    model.load_state_dict({**fresh, **tensors}, assign=True)
    return model.train(), sentences
