"""Vision Transformers, from a folder of pictures to a trained, checked and usable classifier.

    import vitrail
    model = vitrail.create("ViT-B/16", num_classes=10)
    bundle = vitrail.load("runs/photos")

Names are looked up when they are used, so that `import vitrail` is instant and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.models.vit import VisionTransformer
    from vitrail.weights.bundle import Bundle

__version__ = "0.1.0"

__all__ = ["__version__", "create", "load"]


def create(name: str, **overrides: Any) -> VisionTransformer:
    """A Vision Transformer with fresh weights.

    Args:
        name: a variant ("ViT-B/16") or its timm alias; `vitrail models` lists them.
        overrides: fields of models.config.ViTConfig, such as num_classes=10 or image_size=(384, 384).
    Raises:
        ConfigError: an unknown name or field, with the nearest known one.
    """
    import dataclasses

    from vitrail.errors import ConfigError, did_you_mean
    from vitrail.models.config import ViTConfig
    from vitrail.models.variants import get_config
    from vitrail.models.vit import VisionTransformer

    known = [field.name for field in dataclasses.fields(ViTConfig)]
    for field in overrides:
        if field not in known:
            raise ConfigError(f"create: unknown field '{field}'.{did_you_mean(field, known)}")
    return VisionTransformer(dataclasses.replace(get_config(name), **overrides))


def load(path: str) -> Bundle:
    """A trained bundle, or the one in a run folder, with its weights verified.

    Raises:
        WeightsError: it cannot be trusted or read.
    """
    from pathlib import Path

    from vitrail.weights.bundle import load_bundle

    return load_bundle(Path(path))
