"""timm's names of architectures: what they say that neither shapes nor a config.json's model_args do."""

from __future__ import annotations

import re

from vitrail.models.config import ViTConfig
from vitrail.models.variants import TIMM_NAMES, get_config

# Names of models that are built of timm's plain VisionTransformer (or its distilled one).
_PLAIN = re.compile(r"(vit|deit|deit3|test)_|test_vit|flexivit_|eva_large_patch14_(196|336)$")
# Parts of names -> what they compute that keys may not tell.
_REFUSED = {
    r"rope": "rotary positions",
    r"relpos": "relative positions",
    r"_rpn_": "norms behind the branches",
    r"_d(p)?(wee|little)_": "differential attention",
    r"_pwee_": "blocks whose branches run side by side",
    r"intern300m|_radio_": "no final norm",
    r"_mobileclip|_mci": "convolutional stems",
    r"_resnet\d+": "a ResNet of another kind, with batch norms",
}
_GELU_TANH = re.compile(
    r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip_(gap_)?\d+$|vit_large_patch16_siglip_(gap_)?512$"
)
# Part of a name -> heads, where they are not of 64 features.
_NUM_HEADS = {
    r"vit_base_patch16_gap_224$": 16,
    r"vit_giant_patch14_(reg\d_)?(dinov2|tipsv2)$": 24,
    r"test_vit2?$": 2,
    r"test_vit[34]$": 3,
}
_IMAGENET = re.compile(r"deit3?_|.*_dinov2$")


def foreign(architecture: str) -> str | None:
    """What an architecture computes that vitrail's model does not; None: nothing that its name tells."""
    if not _PLAIN.match(architecture):
        return "another architecture than its plain VisionTransformer"
    return next((meaning for part, meaning in _REFUSED.items() if re.search(part, architecture)), None)


def hybrid_architecture(config: ViTConfig) -> str | None:
    """The name whose ResNet a hybrid has, the nearest in its other sizes; None: timm has none.

    The name alone says the stages; all else can be told by arguments.
    """
    stem = (config.stem, config.stem_widths, config.stem_blocks)
    fitting = {
        name: known
        for name, known in ((name, get_config(name)) for name in TIMM_NAMES)
        if (known.stem, known.stem_widths, known.stem_blocks) == stem
    }

    def differences(name: str) -> int:
        fields = ("image_size", "patch_size", "width", "depth", "num_heads")
        return sum(getattr(fitting[name], field) != getattr(config, field) for field in fields)

    return min(fitting, key=differences, default=None)


def activation(architecture: str) -> str:
    """timm's name of the MLPs' activation."""
    if "quickgelu" in architecture:
        return "quick_gelu"
    return "gelu_tanh" if _GELU_TANH.match(architecture) else "gelu"


def has_input_norm(architecture: str) -> bool:
    return "_clip_" in architecture


def layer_norm_eps(architecture: str, input_norm: bool) -> float:
    """Of the name; without one, that of CLIP where there is its norm before the blocks."""
    return 1e-5 if has_input_norm(architecture) or (input_norm and not architecture) else 1e-6


def num_heads(architecture: str, width: int) -> int | None:
    """Heads by the name, or by the width that timm's models of that name have; None: nothing tells."""
    for name, heads in _NUM_HEADS.items():
        if re.match(name, architecture):
            return heads
    if width % 64 == 0 and width <= 1024:
        return width // 64
    return 16 if width in (1152, 1280, 1408, 1536, 1664) else None


def layer_scale_init(architecture: str) -> float:
    if "tipsv2" in architecture:
        return 1.0
    return 1e-6 if re.match(r"deit3_|vit_(medium|betwixt)_patch16_gap_", architecture) else 1e-5


def default_pooling(architecture: str) -> str | None:
    """timm's global_pool, where the name tells one."""
    if "_gap_" in architecture or architecture.startswith("eva_"):
        return "avg"
    return "map" if re.search(r"_(siglip|map)_", architecture) else None


def is_imagenet_normalised(architecture: str) -> bool:
    """Whether its weights were published with ImageNet's mean and standard deviation, without a config.json."""
    return _IMAGENET.match(architecture) is not None
