"""timm (Wightman 2019, "PyTorch Image Models"): .safetensors, .bin and .pth, with or without the hub's config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vitrail.data.config import Preprocessing
from vitrail.errors import ConfigError, WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.variants import TIMM_NAMES, get_config
from vitrail.weights.adapters import timm_architectures as architectures
from vitrail.weights.adapters.base import FAMILY_RULE, Adapter, Description
from vitrail.weights.adapters.mapping import Entry
from vitrail.weights.adapters.shape_rules import read_labels
from vitrail.weights.adapters.timm_names import (
    CONFIG,
    TYPICAL,
    Tree,
    find_tree,
    is_hub_config,
    of_a_copy,
    training_state,
    tree_entries,
    tree_prefixes,
)
from vitrail.weights.adapters.timm_shapes import IMAGENET_MEAN, IMAGENET_STD, Stated, read_config
from vitrail.weights.adapters.timm_writing import write
from vitrail.weights.checkpoint import Checkpoint

__all__ = ["ADAPTER", "write"]

# As timm's own load_state_dict has it: averaged weights before raw ones.
_ORDER = ("state_dict_ema/", "model_ema/", "state_dict/", "model/", "")
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "swiglu",
}
# Of OpenAI's CLIP (Radford et al. 2021, in its code).
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_LAYER_NORMS = ("layernorm", "layernormfp32")
# Arguments of timm's model -> the only values that vitrail computes.
_ONLY: dict[str, tuple[object, ...]] = {
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "final_norm": (True,),
    "proj_bias": (True,),
    "attn_layer": ("", "attn"),
    "pos_embed": ("learn", "none", ""),
    "embed_norm_layer": ("",),
}
_ELSEWHERE = (  # told by keys, shapes, or read below; or of no effect on what the model answers
    "img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "qkv_bias", "init_values", "class_token", "no_embed_class", "reg_tokens", "fc_norm", "pool_include_prefix",
    "pre_norm", "act_layer", "norm_layer", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "pos_drop_rate",
    "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init",
    "strict_img_size",
)  # fmt: skip


@dataclass(frozen=True)
class _HubConfig:
    """What the config.json of a timm repository says, or the little that a training checkpoint does."""

    architecture: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Mapping[str, Any] | None = None
    top: Mapping[str, Any] = field(default_factory=dict)
    source: str = FAMILY_RULE


def recognise(checkpoint: Checkpoint) -> str | None:
    if is_hub_config(checkpoint):
        return f"its {CONFIG} names the timm architecture '{checkpoint.files[CONFIG]['architecture']}'"
    if checkpoint.container not in ("safetensors", "torch") or not tree_prefixes(checkpoint):
        return None
    return "its tensors have timm's names and nothing tells of another family that shares them"


def describe(checkpoint: Checkpoint) -> Description:
    hub = _hub_config(checkpoint)
    tree = find_tree(checkpoint, _ORDER)
    stated = _stated(hub, tree)
    config, sources, notes = read_config(tree, stated)
    _require_agreement(hub, config, tree)
    if stated.pool_prefix and config.pooling == "map" and config.num_prefix_tokens:
        raise WeightsError(f"{checkpoint.where}: attention pooling over prefix tokens too (pool_include_prefix)")
    if config.pre_logits_size is not None:
        notes += (
            "its pre-logits layer is kept, with tanh, as timm had it when it wrote such files; timm now drops it",
        )
    notes += _gelu_note(hub, config)
    if config.distillation_token:
        notes += ("the answers of the two heads, of class and distillation token, are averaged",)
    if stated.image_size and stated.image_size != config.image_size:
        said = "x".join(map(str, stated.image_size))
        notes += (f"{hub.source} speaks of pictures of {said}, the position table is of another size and was kept",)
    preprocessing, picture_sources = _preprocessing(hub, config, checkpoint.where)
    labels, label_source = read_labels(checkpoint, config.num_classes, _label_names(hub, checkpoint.where), CONFIG)
    is_flexible = hub.architecture.startswith("flexivit")
    return Description(
        config,
        preprocessing,
        labels,
        {**sources, **picture_sources, "labels": label_source},
        notes=notes,
        resampling="bilinear" if is_flexible else "bicubic_antialias",
        patch_resampling="bilinear" if is_flexible else "bicubic_antialias",
        licence=(hub.pretrained or {}).get("license"),
    )


def entries(config: ViTConfig, checkpoint: Checkpoint) -> Sequence[Entry]:
    return tree_entries(find_tree(checkpoint, _ORDER), config, _explained(_hub_config(checkpoint)))


def unused(name: str) -> str | None:
    return training_state(name) or _left_out_pool(name) or of_a_copy(name)


def _left_out_pool(name: str) -> str | None:
    # `entries` has seen that only an architecture which leaves the pooling out has it left over.
    return "the attention pooling, which this architecture leaves out" if "attn_pool." in name else None


def _explained(hub: _HubConfig) -> Callable[[str], str | None]:
    leaves_out_pool = "siglip_gap" in hub.architecture
    return lambda name: training_state(name) or (_left_out_pool(name) if leaves_out_pool else None)


def _hub_config(checkpoint: Checkpoint) -> _HubConfig:
    if is_hub_config(checkpoint):
        top = checkpoint.files[CONFIG]
        architecture = str(top["architecture"]).split(".")[0]
        meaning = architectures.foreign(architecture)
        if meaning is not None:
            raise WeightsError(
                f"{checkpoint.where}: timm's '{architecture}' has {meaning}, which vitrail's Vision Transformer does"
                " not compute"
            )
        args, pretrained = top.get("model_args") or {}, top.get("pretrained_cfg", top)
        for name, value in (("model_args", args), ("pretrained_cfg", pretrained)):
            if not isinstance(value, dict):
                raise WeightsError(f"{checkpoint.where}: {name} of {CONFIG} is {value!r}, not an object")
        return _HubConfig(architecture, args, pretrained, top, CONFIG)
    hint = str(checkpoint.values.get("arch", "")).split(".")[0]
    if "patch" in hint and architectures.foreign(hint) is None:
        return _HubConfig(hint, source="the checkpoint's 'arch'")
    return _HubConfig()


def _stated(hub: _HubConfig, tree: Tree) -> Stated:
    """What shapes cannot tell, from model_args, else from the architecture's name, else by timm's rule."""
    args, where = hub.args, tree.where
    for name, value in args.items():
        if value is not None and name in _ONLY and value not in _ONLY[name]:
            raise WeightsError(f"{where}: model_args has {name} {value!r}, which vitrail's model does not compute")
        if name not in _ONLY and name not in _ELSEWHERE:
            raise WeightsError(f"{where}: model_args has {name} {value!r}, which vitrail does not know")
    norm = args.get("norm_layer")
    if norm and str(norm).replace("_", "").lower() not in _LAYER_NORMS:
        raise WeightsError(f"{where}: norm_layer {norm!r} is no LayerNorm")
    named = args.get("act_layer") or architectures.activation(hub.architecture)
    if named not in _ACTIVATIONS:
        raise WeightsError(f"{where}: activation {named!r} is none of {', '.join(_ACTIVATIONS)}")
    by_name = f"the architecture '{hub.architecture}'" if hub.architecture else FAMILY_RULE
    sources = {
        "activation": hub.source if args.get("act_layer") else by_name,
        "layer_norm_eps": hub.source if norm else by_name,
        "image_size": hub.source,
        "pooling": hub.source,
    }
    pooling = args.get("global_pool") or (hub.pretrained or {}).get("global_pool") or hub.top.get("global_pool")
    if not pooling:
        pooling = architectures.default_pooling(hub.architecture)
        sources["pooling"] = by_name
    if pooling not in (None, "token", "avg", "map"):
        raise WeightsError(f"{where}: global_pool {pooling!r} is none of token, avg, map")
    if pooling is None:
        del sources["pooling"]
    heads = args.get("num_heads")
    kernel = tree.shape("patch_embed.proj.weight")
    if heads is None and hub.architecture and kernel is not None:
        heads = architectures.num_heads(hub.architecture, kernel[0])
    if heads is not None:
        sources["num_heads"] = hub.source if "num_heads" in args else by_name
    eps = architectures.layer_norm_eps(hub.architecture, "norm_pre.weight" in tree.names)
    no_embed_class = args.get("no_embed_class", "reg_token" in tree.names)
    return Stated(
        num_heads=heads,
        activation=_ACTIVATIONS[named],  # type: ignore[arg-type]
        layer_norm_eps=1e-6 if norm else eps,
        pooling=pooling,  # type: ignore[arg-type]
        pool_prefix=bool(args.get("pool_include_prefix", hub.architecture == "test_vit3")),
        image_size=_image_size(hub, where),
        layer_scale_init=args.get("init_values") or architectures.layer_scale_init(hub.architecture),
        table_prefixes=("none", "all") if no_embed_class else ("all", "none"),
        sources=sources,
    )


def _gelu_note(hub: _HubConfig, config: ViTConfig) -> tuple[str, ...]:
    """The activation is what neither the tensors of CLIP nor most of timm's names of its models tell."""
    if not config.input_norm or config.activation != "gelu":
        return ()
    if "quickgelu" in str((hub.pretrained or {}).get("notes", "")).lower():
        return (
            f"its notes say that it was trained with QuickGELU; timm computes GELU under the name '{hub.architecture}',"
            " and that was taken",
        )
    if not hub.architecture:
        return ("nothing tells whether it was trained with GELU or, as OpenAI's CLIP, with QuickGELU: GELU was taken",)
    return ()


def _image_size(hub: _HubConfig, where: str) -> tuple[int, int] | None:
    size = hub.args.get("img_size")
    if size is None and hub.pretrained is not None and isinstance(hub.pretrained.get("input_size"), list | tuple):
        size = hub.pretrained["input_size"][1:]
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise WeightsError(f"{where}: the picture size {size!r} of {CONFIG} is not (height, width) in whole pixels")
    return sides[0], sides[1]


def _require_agreement(hub: _HubConfig, config: ViTConfig, tree: Tree) -> None:
    """Raises WeightsError where config.json and the tensors are of two models."""
    args = {name: value for name, value in hub.args.items() if value is not None}
    classes = hub.top.get("num_classes", (hub.pretrained or {}).get("num_classes"))
    found: dict[str, object] = {
        "embed_dim": config.width,
        "depth": config.depth,
        "patch_size": config.patch_kernel_size,
        "in_chans": config.in_channels,
        "qkv_bias": config.qkv_bias,
        "pre_norm": config.input_norm,
        "class_token": config.class_token,
        "reg_tokens": config.num_register_tokens,
        "num_classes": config.num_classes,
    }
    stated = {name: args[name] for name in found if name in args}
    if hub.source == CONFIG and hub.architecture in TIMM_NAMES:
        plain = get_config(hub.architecture)
        for name, value in (
            ("embed_dim", plain.width),
            ("depth", plain.depth),
            ("patch_size", plain.patch_kernel_size),
        ):
            stated.setdefault(name, value)
    if classes is not None:
        stated["num_classes"] = classes
    if hub.source == CONFIG:
        stated.setdefault("pre_norm", architectures.has_input_norm(hub.architecture))
    wrong = [f"{name} {value} against {found[name]}" for name, value in stated.items() if value != found[name]]
    if wrong:
        raise WeightsError(
            f"{tree.where}: {CONFIG} and the tensors are of two models: {'; '.join(wrong)}. Take both from one place."
        )


def _preprocessing(hub: _HubConfig, config: ViTConfig, where: str) -> tuple[Preprocessing, dict[str, str]]:
    """From pretrained_cfg with timm's own defaults; without one, as timm evaluates AugReg's weights or CLIP's."""
    names = ("mean", "std", "interpolation", "resize", "crop_fraction")
    if hub.pretrained is None:
        is_imagenet = architectures.is_imagenet_normalised(hub.architecture)
        half = (0.5, 0.5, 0.5)
        own = (_CLIP_MEAN, _CLIP_STD) if config.input_norm else (half, half)
        stated: Mapping[str, Any] = {
            "mean": IMAGENET_MEAN if is_imagenet else own[0],
            "std": IMAGENET_STD if is_imagenet else own[1],
            "crop_pct": 1.0 if min(config.image_size) >= 384 else 0.9,
        }
        source = hub.source if is_imagenet else FAMILY_RULE
    else:
        stated, source = hub.pretrained, CONFIG
    interpolation, mode = stated.get("interpolation", "bicubic"), stated.get("crop_mode") or "center"
    try:
        fraction = float(stated.get("crop_pct") or 0.875)
        mean, std = (tuple(map(float, stated.get(name, default))) for name, default in _NORMALISATION.items())
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: crop_pct, mean or std of {CONFIG} are not numbers ({error})") from error
    if interpolation not in ("bilinear", "bicubic"):
        raise WeightsError(f"{where}: interpolation {interpolation!r} is neither bilinear nor bicubic")
    if mode not in ("center", "squash") or (mode == "squash" and fraction != 1):
        raise WeightsError(f"{where}: crop_mode {mode!r} with crop_pct {fraction:g} is not among vitrail's")
    sources = dict.fromkeys(names, source)
    if config.in_channels == 1 and len(mean) == len(std) == 3:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
        sources |= dict.fromkeys(("mean", "std"), f"{source}, averaged over colours for grey pictures")
    if len(mean) != config.in_channels:
        raise WeightsError(
            f"{where}: mean {mean} for pictures of {config.in_channels} channels; vitrail prepares 1 or 3 channels"
        )
    resize: Literal["squash", "crop"] = "squash" if mode == "squash" else "crop"
    try:
        return Preprocessing(config.image_size, resize, fraction, interpolation, mean, std), sources
    except ConfigError as error:
        raise WeightsError(f"{where}: {error}") from error


_NORMALISATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _label_names(hub: _HubConfig, where: str) -> list[str] | None:
    """Labels in order: descriptions where all have one, for ImageNet's names are numbers of WordNet."""
    stated = {**(hub.pretrained or {}), **hub.top}
    names = stated.get("label_names") or stated.get("labels")
    if not names:
        return None
    if isinstance(names, dict):
        by_index = {int(index): str(name) for index, name in names.items() if str(index).isdecimal()}
        if len(by_index) != len(names) or sorted(by_index) != list(range(len(by_index))):
            raise WeightsError(f"{where}: label_names of {CONFIG} are not numbered from 0 without a gap")
        names = [by_index[index] for index in range(len(by_index))]
    if not isinstance(names, list | tuple):
        raise WeightsError(f"{where}: label_names of {CONFIG} are {names!r}, neither a list nor an object")
    described = stated.get("label_descriptions")
    if isinstance(described, dict) and all(name in described for name in names):
        return [str(described[name]) for name in names]
    return [str(name) for name in names]


ADAPTER = Adapter("timm", "timm", TYPICAL, recognise, describe, entries, unused)
