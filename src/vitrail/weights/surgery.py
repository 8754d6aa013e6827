"""Fitting trained weights to another task: another head, pictures, patches. What was done is told, not guessed."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.layers.initialization import Initializable
from vitrail.layers.patch_embed import adapt_input_channels, resample_patch_embedding
from vitrail.layers.position_embed import ResampleMethod, resample_position_embedding
from vitrail.models.build import Model
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import ModelConfig
from vitrail.models.timm_config import TimmConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle
from vitrail.weights.class_row import add_class_row, fold_class_row
from vitrail.weights.resnet_surgery import adapt_resnet

# What may differ without a single weight of the encoder having another shape or meaning.
_FREE = {
    "image_size",
    "num_classes",
    "dropout_rate",
    "attention_dropout_rate",
    "stochastic_depth_rate",
    "head_bias_init",
    "pre_logits_size",
    "position_for_prefix",
}
# Where pictures enter, by stem: a hybrid's ResNet, its root alone, a convolutional stem, patches.
_INPUT_KERNELS = (
    "patch_embed.backbone.stem.conv.weight",
    "patch_embed.backbone.conv.weight",
    "patch_embed.backbone.layers.0.conv.weight",
    "patch_embed.proj.weight",
)
_HEADS = ("head.", "head_dist.", "pre_logits.")
_METHOD_NAMES: dict[ResampleMethod, str] = {
    "bilinear_align_corners": "bilinear align-corners as the reference",
    "bilinear": "bilinear with half-pixel centres",
    "bilinear_antialias": "bilinear antialiased",
    "bicubic": "bicubic with half-pixel centres",
    "bicubic_antialias": "bicubic antialiased",
    "bicubic_align_corners": "bicubic align-corners as torchvision",
    "bicubic_offset": "bicubic with the offset of DINO",
}


def adapt(
    bundle: Bundle,
    config: ModelConfig,
    labels: tuple[str, ...],
    *,
    generator: torch.Generator | None = None,
    method: ResampleMethod | None = None,
) -> tuple[Model, list[str]]:
    """A model of `config` that starts from the weights of `bundle`, whose own model is left alone.

    Learned positions are stretched to another grid and the patch kernel to another patch size and other channels; a BiT
    ResNet takes pictures of any size as it is. The head is kept where the labels are the bundle's, in their order, and
    what it sees is unchanged; otherwise it starts at zero, together with the hidden layer before it (Dosovitskiy et al.
    2021, section 3.2).

    Args:
        config: of the new model; num_classes is the number of labels.
        generator: draws what starts afresh and not at zero: a hidden layer before the head.
        method: how positions are stretched; None: as those who trained the weights do it.
    Returns:
        The model in training mode, and a sentence for everything that is not as it was.
    Raises:
        WeightsError: an architecture that these weights do not fit; names the fields.
    """
    old = bundle.config.model
    if len(labels) != config.num_classes:
        raise WeightsError(f"{len(labels)} labels for a head of {config.num_classes} classes")
    if isinstance(old, TimmConfig) or isinstance(config, TimmConfig):
        raise WeightsError(
            f"{bundle.path}: models of timm are baselines, trained from random weights alone: start from another"
            " bundle, and train a model of vitrail's"
        )
    if not (isinstance(old, ViTConfig) and isinstance(config, ViTConfig)):
        return adapt_resnet(bundle, config, labels)
    _require_fit(bundle, old, config)
    tensors = dict(bundle.model.state_dict())
    sentences = [
        _change_class_row(tensors, old, config),
        _stretch_positions(tensors, old, config, method or bundle.config.resampling),
        _resize_patches(tensors, bundle, old, config),
        _change_channels(tensors, old, config),
        _change_pooling(tensors, old, config),
        _drop_head(tensors, bundle, old, config, labels),
    ]
    return _model_of(config, tensors, generator), [sentence for sentence in sentences if sentence is not None]


def _require_fit(bundle: Bundle, old: ViTConfig, config: ViTConfig) -> None:
    allowed = set(_FREE)
    if not old.patch_norm:  # its norm goes over the values of one patch
        allowed.add("in_channels")
        if old.stem == "patch":
            allowed.add("patch_size")
    # Attention pooling is a layer of its own, and without a final norm there is none to move behind the mean.
    poolings = {old.pooling, config.pooling}
    if "map" not in poolings and ("avg" not in poolings or old.block_style == "pre_norm"):
        allowed |= {"pooling", "pool_prefix"}
    if old.layer_scale_init is not None and config.layer_scale_init is not None:
        allowed.add("layer_scale_init")  # only where training starts from nothing
    before, after = asdict(old), asdict(config)
    differing = [name for name in after if name not in allowed and before[name] != after[name]]
    if differing:
        fields = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in differing)
        raise WeightsError(f"{bundle.path}: these weights do not fit the model asked for: {fields}")


def _model_of(config: ViTConfig, tensors: dict[str, Tensor], generator: torch.Generator | None) -> VisionTransformer:
    """A model of its own copies of `tensors`; only the layers of the head that they lack are filled anew."""
    model = VisionTransformer(config, initialize=False)
    if "pre_logits.fc.weight" not in tensors and isinstance(model.pre_logits, Initializable):
        model.pre_logits.initialize(generator)
    for name, head in (("head.weight", model.head), ("head_dist.weight", model.head_dist)):
        if name not in tensors and isinstance(head, Initializable):
            head.initialize(generator)
    # Assigned, so that every tensor is there twice at most: in the bundle and here.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    fresh = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_HEADS)}
    model.load_state_dict({**fresh, **own}, assign=True)
    return model.train()


def _change_class_row(tensors: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> str | None:
    if old.num_position_prefix == new.num_position_prefix or not old.position_embedding.startswith("learned"):
        return None
    change = fold_class_row if old.position_for_prefix else add_class_row
    _, changed, sentence = change(old, tensors)
    tensors.clear()
    tensors.update(changed)
    return sentence


def _stretch_positions(
    tensors: dict[str, Tensor], old: ViTConfig, new: ViTConfig, method: ResampleMethod
) -> str | None:
    if old.grid == new.grid or old.position_embedding == "none":
        return None
    grids = f"{old.grid[0]}x{old.grid[1]} -> {new.grid[0]}x{new.grid[1]}"
    if old.position_embedding == "relative":
        raise WeightsError(f"relative positions belong to one sequence length; they cannot be stretched ({grids})")
    if old.position_embedding == "learned_1d":
        prefix = new.num_position_prefix
        tensors["pos_embed"] = resample_position_embedding(tensors["pos_embed"], old.grid, new.grid, prefix, method)
    elif old.position_embedding == "learned_2d":
        for name, axis in (("pos_embed.rows", 0), ("pos_embed.columns", 1)):
            line = (1, old.grid[axis]), (1, new.grid[axis])
            tensors[name] = resample_position_embedding(tensors[name], *line, 0, method)
    else:
        return f"position embedding {grids}, fixed sines and cosines computed for the new grid"
    return f"position embedding {grids}, {_METHOD_NAMES[method]}"


def _resize_patches(tensors: dict[str, Tensor], bundle: Bundle, old: ViTConfig, new: ViTConfig) -> str | None:
    method = bundle.config.patch_resampling
    if old.patch_size == new.patch_size:
        return None
    name = "patch_embed.proj.weight"
    tensors[name] = resample_patch_embedding(tensors[name], new.patch_kernel_size, method)
    words = method.replace("_antialias", " antialiased")
    return f"patch embedding {old.patch_size} -> {new.patch_size} pixels, pseudo-inverse resize ({words})"


def _change_channels(tensors: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> str | None:
    if old.in_channels == new.in_channels:
        return None
    name = next(name for name in _INPUT_KERNELS if name in tensors)
    tensors[name] = adapt_input_channels(tensors[name], new.in_channels)
    how = "summed" if new.in_channels == 1 else f"repeated and scaled by {old.in_channels}/{new.in_channels}"
    # A standardised kernel is not the sum of its standardised parts: only about the same answers come out.
    about = ", which its standardisation changes a little" if old.stem == "resnet" else ""
    return f"input channels {old.in_channels} -> {new.in_channels}, kernel {how}{about}"


def _change_pooling(tensors: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> str | None:
    if (old.pooling, old.pool_prefix) == (new.pooling, new.pool_prefix):
        return None
    before, after = (f"{c.pooling}{' of all tokens' if c.pool_prefix else ''}" for c in (old, new))
    sentence = f"pooling {before} -> {after}"
    if (old.pooling == "avg") == (new.pooling == "avg"):
        return sentence
    source, target = ("norm", "fc_norm") if new.pooling == "avg" else ("fc_norm", "norm")
    for kind in ("weight", "bias"):
        tensors[f"{target}.{kind}"] = tensors.pop(f"{source}.{kind}")
    place = "behind the mean" if new.pooling == "avg" else "before the pooling"
    return f"{sentence}, the final norm moved {place}"


def _drop_head(
    tensors: dict[str, Tensor], bundle: Bundle, old: ViTConfig, new: ViTConfig, labels: tuple[str, ...]
) -> str | None:
    """Take out what is not kept of the head; what is missing then starts afresh."""
    old_labels = bundle.config.labels
    same_features = (old.pre_logits_size, old.pooling, old.pool_prefix) == (
        new.pre_logits_size,
        new.pooling,
        new.pool_prefix,
    )
    if same_features and labels == old_labels:
        return None
    dropped = ("head.", "head_dist.") if same_features and not labels else _HEADS
    for name in [name for name in tensors if name.startswith(dropped)]:
        del tensors[name]
    if not labels:
        return "head dropped, the model answers with features"
    sentence = f"{'both heads' if new.distillation_token else 'head'} fresh, {len(labels)} classes"
    if labels == old_labels:
        sentence += " (the same, of other features)"
    elif set(labels) == set(old_labels):
        sentence += " (the same labels in another order)"
    if old.pre_logits_size is not None:
        sentence += "; the hidden layer before it went with it"
    if new.pre_logits_size is not None:
        sentence += f"; a hidden layer of {new.pre_logits_size} before it drawn anew"
    return sentence
