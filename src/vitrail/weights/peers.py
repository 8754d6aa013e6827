"""The same model in the code of its publishers, where that is installed: the reference a certificate is checked with.

None of these libraries is needed by anything else; a check that cannot be made is left out, never guessed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.kinds import require_vit
from vitrail.weights.adapters import WRITERS
from vitrail.weights.adapters.base import Model
from vitrail.weights.bundle import Bundle
from vitrail.weights.certificate import Check
from vitrail.weights.writing import compare, pictures


def _timm(bundle: Bundle, path: Path) -> nn.Module:
    import timm

    return timm.create_model(f"local-dir:{path.absolute()}", pretrained=True)


def _huggingface(bundle: Bundle, path: Path) -> nn.Module:
    import transformers

    transformers.utils.logging.disable_progress_bar()  # the answer is what is wanted, not how it came
    auto = transformers.AutoModelForImageClassification
    return _Logits(auto.from_pretrained(path.absolute(), local_files_only=True, trust_remote_code=False))


def _torchvision(bundle: Bundle, path: Path) -> nn.Module:
    from safetensors.torch import load_file
    from torchvision.models.vision_transformer import VisionTransformer

    config = require_vit(bundle.config.model, "torchvision's layout")
    model = VisionTransformer(
        image_size=config.image_size[0],
        patch_size=config.patch_size,
        num_layers=config.depth,
        num_heads=config.num_heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_size,
        num_classes=config.num_classes,
        representation_size=config.pre_logits_size,
    )
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model


def _google(bundle: Bundle, path: Path) -> nn.Module | None:
    """timm's own reader of npz files, on timm's model of the same config: Google's code needs jax."""
    import timm

    config = bundle.config
    if not isinstance(config.model, ViTConfig):
        return None  # its reader of npz files has BiT's under a model of its own
    if config.model.stem == "resnet" and config.model.stem_numerics != "timm":
        return None  # timm's hybrids have small numbers of their own: the logits would differ by them
    try:
        said = WRITERS["timm"](Model(config.model, config.preprocessing, config.labels)).files["config.json"]
    except WeightsError:
        return None
    model: Any = timm.create_model(said["architecture"], num_classes=config.model.num_classes, **said["model_args"])
    model.load_pretrained(str(path / "model.npz"))
    return model


class _Logits(nn.Module):
    """The logits alone of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


# Layout -> the library's name, and its model made from a folder of that layout.
PEERS: dict[str, tuple[str, Callable[[Bundle, Path], nn.Module | None]]] = {
    "timm": ("timm", _timm),
    "huggingface": ("transformers", _huggingface),
    "torchvision": ("torchvision", _torchvision),
    "google": ("timm", _google),
}


class PeerError(WeightsError):
    """The peer's own code does not take the files."""


def layout_of(path: Path) -> str | None:
    """The layout of a folder that a peer's own code can load, by its config.json; None: none of `PEERS`."""
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    return "timm" if "architecture" in config else "huggingface" if "model_type" in config else None


def check_with_peer(bundle: Bundle, path: Path, layout: str | None) -> Check | None:
    """The logits of `bundle` against those of the peer's own model, made from the folder at `path`.

    Args:
        layout: a key of `PEERS`.
    Returns:
        None for another layout, a single file, a model without head, or where the peer is not installed or cannot
        make such a model.
    Raises:
        PeerError: it is installed, and stumbles over the files.
        WeightsError: one of the two answers with numbers that are not finite.
    """
    if layout is None or layout not in PEERS or not path.is_dir() or bundle.config.model.num_classes == 0:
        return None
    library, load = PEERS[layout]
    if importlib.util.find_spec(library) is None:
        return None
    name = f"{library} {importlib.metadata.version(library)}"
    try:
        model = load(bundle, path)
        if model is None:
            return None
        with torch.inference_mode():
            reference = model.eval()(pictures(bundle.config.model))
    except Exception as error:  # whatever another library raises
        raise PeerError(f"{name} cannot load {path}: {str(error).strip().splitlines()[0]}") from error
    return compare(bundle.model, reference, name)
