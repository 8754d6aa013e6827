"""BiT ResNets in timm's layout and in BiT's npz files, both of which leave the numerics to their code."""

from __future__ import annotations

from typing import Any

from vitrail.errors import WeightsError
from vitrail.models.resnet_config import ResNetConfig
from vitrail.models.resnet_variants import TIMM_NAMES, TIMM_STD_CONV_EPS, get_resnet_config
from vitrail.weights.adapters.base import Model, Writing
from vitrail.weights.adapters.bit import NPZ_STD_CONV_EPS, entries_of_npz
from vitrail.weights.adapters.mapping import Entry, native_shapes
from vitrail.weights.adapters.timm_writing import pretrained_cfg

_FAMILY: dict[str, Any] = {"max_pool_padding": "zero", "group_norm_eps": 1e-5}  # of both codes


def write_timm(model: Model[ResNetConfig]) -> Writing:
    """timm's layout, for `timm.create_model("local-dir:FOLDER", pretrained=True)` and the hub.

    Raises:
        WeightsError: depths and width that no entry point of timm has, or numerics that BiT's family has not.
    """
    config = model.config
    _require_family(config, "timm's BiT ResNets")
    architecture = _timm_name(config)
    if architecture is None:
        raise WeightsError(
            f"timm has no BiT ResNet of depths {config.depths} and width_factor {config.width_factor:g}: it cannot be"
            f" written in its layout. It has {', '.join(TIMM_NAMES)}. `--to google` writes every one."
        )
    hub = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "num_features": config.num_features,
        "global_pool": "avg",
        **({"label_names": list(model.labels)} if model.labels else {}),
        "model_args": {"in_chans": config.in_channels, "num_classes": config.num_classes},
        "pretrained_cfg": {
            **pretrained_cfg(config, model.preprocessing),
            "first_conv": "stem.conv",
            "classifier": "head.fc",
        },
    }
    return Writing(
        "model.safetensors",
        [Entry(name, (name,)) for name in native_shapes(config)],
        {"config.json": hub},
        _assumed(config, TIMM_STD_CONV_EPS),
        'timm.create_model("local-dir:{folder}", pretrained=True)',
    )


def write_npz(model: Model[ResNetConfig]) -> Writing:
    """BiT's npz files (Kolesnikov et al. 2020), of any depths and width.

    Raises:
        WeightsError: numerics that BiT's code has not.
    """
    config = model.config
    _require_family(config, "BiT's code")
    architecture = _timm_name(config)
    how = f'bit_pytorch.models.ResNetV2({list(config.depths)}, {config.width_factor:g}).load_from(np.load("{{file}}"))'
    if architecture is not None:
        how = f'timm.create_model("{architecture}", num_classes={config.num_classes}, checkpoint_path="{{file}}")'
    return Writing("model.npz", entries_of_npz(config), assumed=_assumed(config, NPZ_STD_CONV_EPS), how_to_load=how)


def _require_family(config: ResNetConfig, code: str) -> None:
    for name, value in _FAMILY.items():
        if getattr(config, name) != value:
            raise WeightsError(f"{name} {getattr(config, name)!r} cannot be said: {code} has {value!r} only")


def _assumed(config: ResNetConfig, std_conv_eps: float) -> dict[str, Any]:
    return {} if config.std_conv_eps == std_conv_eps else {"std_conv_eps": std_conv_eps}


def _timm_name(config: ResNetConfig) -> str | None:
    """timm's entry point of these depths and this width, which its arguments cannot change."""
    wanted = (config.depths, config.width_factor)
    for name in TIMM_NAMES:
        other = get_resnet_config(name)
        if (other.depths, other.width_factor) == wanted:
            return name
    return None
