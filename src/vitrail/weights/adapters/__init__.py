"""Published layouts by name, one a file. The first that recognises a checkpoint reads it: specific ones first."""

from __future__ import annotations

from vitrail.weights.adapters import (
    big_vision,
    bit,
    bit_writing,
    deit,
    dino,
    dinov2,
    google,
    huggingface,
    huggingface_deit,
    huggingface_dinov2,
    huggingface_vit,
    mae,
    moco,
    paddlevit,
    timm,
    torchvision,
    vit_pytorch,
)
from vitrail.weights.adapters.base import Adapter, ResNetWriter, Writer

ADAPTERS: dict[str, Adapter] = {
    "bit": bit.ADAPTER,
    "google": google.ADAPTER,
    "big_vision": big_vision.ADAPTER,
    "huggingface_vit": huggingface_vit.ADAPTER,
    "huggingface_deit": huggingface_deit.ADAPTER,
    "huggingface_dinov2": huggingface_dinov2.ADAPTER,
    "torchvision": torchvision.ADAPTER,
    "paddlevit": paddlevit.ADAPTER,
    "vit_pytorch": vit_pytorch.ADAPTER,
    "moco": moco.ADAPTER,
    "mae": mae.ADAPTER,
    "dinov2": dinov2.ADAPTER,
    "dino": dino.ADAPTER,
    "deit": deit.ADAPTER,
    "timm": timm.ADAPTER,
}

WRITERS: dict[str, Writer] = {
    "timm": timm.write,
    "huggingface": huggingface.write,
    "google": google.write,
    "torchvision": torchvision.write,
}

RESNET_WRITERS: dict[str, ResNetWriter] = {
    "timm": bit_writing.write_timm,
    "google": bit_writing.write_npz,
}
