"""BiT's ResNets (Kolesnikov et al. 2020, "Big Transfer"): Google's npz files, and timm's resnetv2_*_bit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import TIMM_STD_CONV_EPS
from vitrail.weights.adapters.base import FAMILY_RULE, Adapter, Description
from vitrail.weights.adapters.mapping import HWIO, SAME, Codec, Entry
from vitrail.weights.adapters.shape_rules import CALLER, read_labels
from vitrail.weights.checkpoint import Checkpoint

_NPZ_ROOT = "resnet/root_block/standardized_conv2d/kernel"
_NPZ_HEAD = "resnet/head/conv2d"
# Later graphs of one process number their layers: "standardized_conv2d_17".
_NPZ_NUMBER = re.compile(r"(standardized_conv2d|group_norm|conv2d)_\d+(?=/)")
_NPZ_UNIT = re.compile(r"resnet/block(\d{1,3})/unit(\d{1,3})/a/standardized_conv2d/kernel")
_TIMM_ROOT = "stem.conv.weight"
_TIMM_UNIT = re.compile(r"stages\.(\d{1,3})\.blocks\.(\d{1,3})\.conv1\.weight")
_TIMM_CONFIG = "config.json"
NPZ_STD_CONV_EPS = 1e-10  # of BiT's code
_PREFIXES = ("", "state_dict_ema/", "state_dict/", "model/")
# The released heads were trained, or tuned, at these sides; pictures were squashed to them (BiT's `bit_hyperrule`).
_SIDE = 480
# Vectors that old files keep as (1, 1, 1, channels).
_VECTOR = Codec(lambda tensor: tensor.reshape(-1), lambda tensor: (tensor,))


def recognise(checkpoint: Checkpoint) -> str | None:
    names = _npz_names(checkpoint)
    if _NPZ_ROOT in names:
        return f"it has '{names[_NPZ_ROOT]}'"
    prefix = _timm_prefix(checkpoint)
    return None if prefix is None else f"it has '{prefix}{_TIMM_ROOT}' and 'stages.0.blocks.0.norm1' before it"


def describe(checkpoint: Checkpoint) -> Description:
    if checkpoint.choices.prefix:
        raise WeightsError(f"{checkpoint.where}: --prefix '{checkpoint.choices.prefix}' does not apply to a BiT ResNet")
    names = _npz_names(checkpoint)
    is_npz = _NPZ_ROOT in names
    prefix = "" if is_npz else _timm_prefix(checkpoint)
    if prefix is None:
        raise WeightsError(f"{checkpoint.where}: there is neither '{_NPZ_ROOT}' nor '{_TIMM_ROOT}'")
    if is_npz:
        root, head = (
            checkpoint.tensors[names[_NPZ_ROOT]],
            checkpoint.tensors.get(names.get(f"{_NPZ_HEAD}/kernel", "")),
        )
        units, counted_from, root_axes, classes_axis = _NPZ_UNIT, 1, (2, 3), 3
    else:
        root, head = checkpoint.tensors[prefix + _TIMM_ROOT], checkpoint.tensors.get(f"{prefix}head.fc.weight")
        units, counted_from, root_axes, classes_axis = _TIMM_UNIT, 0, (1, 0), 0
        names = {name.removeprefix(prefix): name for name in checkpoint.tensors if name.startswith(prefix)}
    if root.ndim != 4 or (head is not None and head.ndim != 4):
        raise WeightsError(f"{checkpoint.where}: the kernel of the root or of the head is no convolution's")
    hub = {} if is_npz else _hub_config(checkpoint)
    size, size_source = _image_size(checkpoint, hub)
    try:
        config = ResNetConfig(
            image_size=size,
            in_channels=root.shape[root_axes[0]],
            num_classes=0 if head is None else head.shape[classes_axis],
            depths=_depths(checkpoint, names, units, counted_from),
            width_factor=root.shape[root_axes[1]] / 64,
            std_conv_eps=NPZ_STD_CONV_EPS if is_npz else TIMM_STD_CONV_EPS,
        )
    except ConfigError as error:
        raise WeightsError(f"{checkpoint.where}: {error}") from error
    stated = hub.get("label_names")
    label_names = [str(name) for name in stated] if isinstance(stated, list) else None
    labels, label_source = read_labels(checkpoint, config.num_classes, label_names, _TIMM_CONFIG)
    sources = {"image_size": size_source, "labels": label_source}
    return Description(config, _preprocessing(checkpoint, config, hub, is_npz), labels, sources)


def _npz_names(checkpoint: Checkpoint) -> dict[str, str]:
    """Names without the numbers of layers -> as they are."""
    return {_NPZ_NUMBER.sub(r"\1", name): name for name in checkpoint.tensors if name.startswith("resnet/")}


def _timm_prefix(checkpoint: Checkpoint) -> str | None:
    """Where a state dict of timm's pre-activation ResNets stands: its stem has no norm, and its units end in none."""
    tensors = checkpoint.tensors
    for prefix in _PREFIXES:
        needed = (f"{prefix}{_TIMM_ROOT}", f"{prefix}stages.0.blocks.0.norm3.weight", f"{prefix}norm.weight")
        # Batch norms have averages; BiT's have none.
        refused = (f"{prefix}stem.norm.weight", f"{prefix}norm.running_mean")
        if all(name in tensors for name in needed) and not any(name in tensors for name in refused):
            return prefix
    return None


def _depths(
    checkpoint: Checkpoint, names: Mapping[str, str], pattern: re.Pattern[str], counted_from: int
) -> tuple[int, ...]:
    stages: dict[int, set[int]] = {}
    for match in filter(None, map(pattern.fullmatch, names)):
        stages.setdefault(int(match[1]) - counted_from, set()).add(int(match[2]) - counted_from)
    if not stages:
        raise WeightsError(f"{checkpoint.where}: a BiT ResNet without units; the file is not whole")
    for found, of in (
        (set(stages), "stages"),
        *((units, f"units of stage {stage}") for stage, units in stages.items()),
    ):
        if found != set(range(len(found))):
            numbers = ", ".join(str(number + counted_from) for number in sorted(found))
            raise WeightsError(f"{checkpoint.where}: the {of} are numbered {numbers}: one between them is missing")
    return tuple(len(stages[stage]) for stage in range(len(stages)))


def _hub_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """timm's config.json, with what pretrained_cfg says on top.

    Raises:
        WeightsError: it is of another architecture, or has arguments that may change what is computed.
    """
    top = checkpoint.files.get(_TIMM_CONFIG, {})
    architecture = str(top.get("architecture", ""))
    if architecture and not re.match(r"resnetv2_\d+x\d+_bit", architecture):
        raise WeightsError(f"{checkpoint.where}: timm's '{architecture}' is no BiT ResNet, which its tensors look like")
    arguments = top.get("model_args") or {}
    is_known = isinstance(arguments, dict) and set(arguments) <= {"num_classes", "in_chans", "global_pool"}
    if not is_known or arguments.get("global_pool", "avg") != "avg":
        raise WeightsError(f"{checkpoint.where}: model_args {arguments} are not among those vitrail computes")
    pretrained = top.get("pretrained_cfg")
    return {**top, **(pretrained if isinstance(pretrained, dict) else {})}


def _image_size(checkpoint: Checkpoint, hub: Mapping[str, Any]) -> tuple[tuple[int, int], str]:
    if checkpoint.choices.image_size is not None:
        return checkpoint.choices.image_size, CALLER
    size = hub.get("input_size")
    if isinstance(size, list) and len(size) == 3:
        return (size[1], size[2]), _TIMM_CONFIG
    return (_SIDE, _SIDE), FAMILY_RULE


def _preprocessing(checkpoint: Checkpoint, config: ResNetConfig, hub: Mapping[str, Any], is_npz: bool) -> Preprocessing:
    """BiT squashes to the size, bilinear, into -1 to 1; timm cuts the middle as its config says."""
    half = (0.5,) * config.in_channels
    try:
        return Preprocessing(
            config.image_size,
            resize="squash" if is_npz or hub.get("crop_mode") == "squash" else "crop",
            crop_fraction=float(hub.get("crop_pct") or 1.0),
            interpolation=hub.get("interpolation") or "bilinear",
            mean=tuple(map(float, hub.get("mean") or half)),
            std=tuple(map(float, hub.get("std") or half)),
        )
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(f"{checkpoint.where}: {error}") from error


def entries(config: ResNetConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    names = _npz_names(checkpoint)
    if _NPZ_ROOT not in names:
        prefix = _timm_prefix(checkpoint) or ""
        return [Entry(name, (prefix + name,), SAME) for name, _ in _natives(config)]
    return entries_of_npz(config, names)


def entries_of_npz(config: ResNetConfig, names: Mapping[str, str] | None = None) -> list[Entry]:
    """Of BiT's files; `names`: names without the numbers of layers -> as they are in one file."""
    names = names or {}
    return [
        Entry(native, (names.get(foreign, foreign),), HWIO if foreign.endswith("kernel") else _VECTOR)
        for native, foreign in _natives(config)
    ]


def _natives(config: ResNetConfig) -> list[tuple[str, str]]:
    """Every tensor of the model, and its name in BiT's files without the numbers of layers."""

    def norm(native: str, foreign: str) -> list[tuple[str, str]]:
        return [(f"{native}.weight", f"{foreign}/gamma"), (f"{native}.bias", f"{foreign}/beta")]

    pairs = [(_TIMM_ROOT, _NPZ_ROOT)]
    for stage, depth in enumerate(config.depths):
        for unit in range(depth):
            native, foreign = f"stages.{stage}.blocks.{unit}", f"resnet/block{stage + 1}/unit{unit + 1:02d}"
            if unit == 0:
                pairs.append((f"{native}.downsample.conv.weight", f"{foreign}/a/proj/standardized_conv2d/kernel"))
            for number, part in enumerate("abc", start=1):
                pairs += norm(f"{native}.norm{number}", f"{foreign}/{part}/group_norm")
                pairs.append((f"{native}.conv{number}.weight", f"{foreign}/{part}/standardized_conv2d/kernel"))
    pairs += norm("norm", "resnet/group_norm")
    if config.num_classes:
        pairs += [("head.fc.weight", f"{_NPZ_HEAD}/kernel"), ("head.fc.bias", f"{_NPZ_HEAD}/bias")]
    return pairs


def unused(name: str) -> str | None:
    """Counters and momenta of a training; what is left else would change the answers."""
    if re.search(r"(^|/)(global_step|step)$|/Momentum$", name):
        return "state of the training"
    return "another copy in a training checkpoint" if name.startswith(_PREFIXES[1:]) else None


ADAPTER = Adapter(
    "bit",
    "BiT ResNets",
    ("stem.conv.weight", "stages.{}.blocks.0.norm3.weight", "resnet/root_block/standardized_conv2d/kernel"),
    recognise,
    describe,
    entries,
    unused,
)
