"""Vision Transformers, from a folder of pictures to a trained, checked and usable classifier.

    import vitrail
    model = vitrail.create("ViT-B/16", num_classes=10)
    bundle = vitrail.load("runs/photos")  # or "hf-hub:google/vit-base-patch16-224", or a file of any layout
    answer = vitrail.compile_for_inference(bundle, precision="bfloat16")  # bytes in, float32 logits out

Names are looked up when they are used, so that `import vitrail` is instant and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from torch import Tensor

    from vitrail.engines.base import Prepared
    from vitrail.models.build import Model
    from vitrail.weights.bundle import Bundle

__version__ = "0.1.0"

__all__ = ["__version__", "compile_for_inference", "create", "load"]


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


def compile_for_inference(
    bundle: Bundle | str | Path,
    *,
    engine: Literal["auto", "torch", "openvino", "onnx"] = "torch",
    precision: Literal["float32", "bfloat16", "int8"] = "float32",
    answer: Literal["logits", "features"] = "logits",
    batch_size: int = 16,
    pictures: int | None = None,
    compile: bool | None = None,
    calibration: Tensor | None = None,
    labelled: tuple[Tensor, Tensor] | None = None,
    max_loss: float = 0.003,
) -> Prepared:
    """A copy of a model, prepared for inference on this machine's CPU.

    It is called with (B, C, H, W) uint8 pictures, as the evaluation transform makes them, and answers (B, K) float32;
    any B will do. Its `description` says what it is.

    Args:
        bundle: a loaded bundle, or whatever `load` takes.
        engine: "auto": the fastest of those installed, in any precision, that keeps the accuracy; a trial of minutes.
        precision: of the products; with "auto" it is chosen too.
        answer: "features": what the head sees.
        batch_size: the usual one.
        pictures: how many are to come: compiling takes a while, and few do not pay for it. None: very many.
        compile: True or False settles whether torch compiles.
        calibration: for int8: a few dozen to 256 of your own pictures, (N, C, H, W) uint8.
        labelled: pictures (N, C, H, W) uint8 and their classes (N,), on which the accuracy is compared.
        max_loss: of the accuracy, as a share; more is refused.
    Raises:
        WeightsError: as `load`. ConfigError: what cannot be done, or would cost too much accuracy.
    """
    from vitrail.engines.choice import choose_engine
    from vitrail.engines.config import InferenceConfig
    from vitrail.engines.prepare import Labelled, prepare
    from vitrail.weights.bundle import Bundle
    from vitrail.weights.load import load

    loaded = bundle if isinstance(bundle, Bundle) else load(bundle)
    checked = None if labelled is None else Labelled(*labelled)
    config = InferenceConfig(
        engine="torch" if engine == "auto" else engine,
        precision=precision,
        answer=answer,
        batch_size=batch_size,
        pictures=pictures,
        compile=compile,
    )
    if engine == "auto":
        choice = choose_engine(loaded, config, calibration=calibration, labelled=checked, max_loss=max_loss)
        return choice.prepared
    return prepare(loaded, config, calibration=calibration, labelled=checked, max_loss=max_loss)
