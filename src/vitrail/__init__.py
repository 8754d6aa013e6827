"""Vision Transformers, from a folder of pictures to a trained, checked and usable classifier.

    import vitrail
    model = vitrail.create("ViT-B/16", num_classes=10)
    bundle = vitrail.load("runs/photos")  # or "hf-hub:google/vit-base-patch16-224", or a file of any layout

Names are looked up when they are used, so that `import vitrail` is instant and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from vitrail.models.build import Model
    from vitrail.weights.bundle import Bundle

__version__ = "0.1.0"

__all__ = ["__version__", "create", "load"]


def create(name: str, **overrides: Any) -> Model:
    """A Vision Transformer, a BiT ResNet or an Axial-ResNet with fresh weights.

    Args:
        name: a variant ("ViT-B/16", "BiT-R50x1") or its timm alias; `vitrail models` lists them.
        overrides: fields of models.config.ViTConfig, models.resnet_config.ResNetConfig or AxialResNetConfig of
            models.axial_resnet_config, such as num_classes=10 or image_size=(384, 384).
    Raises:
        ConfigError: an unknown name or field, with the nearest known one.
    """
    import dataclasses

    from vitrail.errors import ConfigError, did_you_mean
    from vitrail.models.build import build_model
    from vitrail.models.kinds import get_model_config

    config = get_model_config(name)
    known = [field.name for field in dataclasses.fields(config)]
    for field in overrides:
        if field not in known:
            raise ConfigError(f"create: unknown field '{field}'.{did_you_mean(field, known)}")
    return build_model(dataclasses.replace(config, **overrides))


def load(
    spec: str | Path,
    *,
    family: str | None = None,
    num_heads: int | None = None,
    query_scale: Literal["head", "width"] | None = None,
    pooling: Literal["token", "mean"] | None = None,
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] | None = None,
    layer_norm_eps: float | None = None,
    image_size: tuple[int, int] | None = None,
    prefix: str | None = None,
    labels: Sequence[str] | None = None,
) -> Bundle:
    """A model with its labels, its preprocessing and, where it was read from another layout, a certificate.

    Args:
        spec: a bundle or the run folder around it; a weights file of any published layout, or a folder with one and its
            config; a name of the catalog (`vitrail models --weights`); "hf-hub:owner/name[@revision]".
        family, num_heads, query_scale, pooling, activation, layer_norm_eps, image_size, prefix, labels: what the files
            do not say, or say wrongly; see weights.checkpoint.Choices.
    Raises:
        WeightsError: nothing there, or weights that cannot be trusted or do not fit; says what to do next.
    """
    from vitrail.weights.checkpoint import Choices
    from vitrail.weights.load import load

    choices = Choices(
        family=family,
        num_heads=num_heads,
        query_scale=query_scale,
        pooling=pooling,
        activation=activation,
        layer_norm_eps=layer_norm_eps,
        image_size=image_size,
        prefix=prefix,
        labels=None if labels is None else tuple(labels),
    )
    return load(spec, choices=choices)
