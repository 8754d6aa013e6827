"""The named sizes of Vision Transformers: "ViT-B/16" -> config. Free of torch, so that listing them is instant."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.config import ViTConfig


@dataclass(frozen=True)
class Variant:
    """One line of the registry.

    Attributes:
        name: "ViT-<size>/<patch size>", at 224 x 224 pixels with 1000 classes; "R50+ViT-B/16" for a hybrid,
            "Axial-ViT-B/16" for axial attention.
        config: its architecture.
        timm_names: what timm calls the same architecture.
    """

    name: str
    config: ViTConfig
    timm_names: tuple[str, ...]


# Ti, S, B, L: Steiner et al. 2021; H: Dosovitskiy et al. 2021; g, G: Zhai et al. 2022; e: Chen et al. 2022 (PaLI);
# So400m: Alabdulmohsin et al. 2023; mu, M and the -opt shapes: big_vision.
# ViT-b halves every hidden size of B (Dosovitskiy et al. 2021, section 4.3): 12 heads still, each of half the width.
SIZES = {
    "mu": ViTConfig(width=32, depth=1, num_heads=2, mlp_size=128),
    "Ti": ViTConfig(width=192, depth=12, num_heads=3, mlp_size=768),
    "S": ViTConfig(width=384, depth=12, num_heads=6, mlp_size=1536),
    "b": ViTConfig(width=384, depth=12, num_heads=12, mlp_size=1536),
    "M": ViTConfig(width=512, depth=12, num_heads=8, mlp_size=2048),
    "B": ViTConfig(width=768, depth=12, num_heads=12, mlp_size=3072),
    "L": ViTConfig(width=1024, depth=24, num_heads=16, mlp_size=4096),
    "So400m": ViTConfig(width=1152, depth=27, num_heads=16, mlp_size=4304),
    "H": ViTConfig(width=1280, depth=32, num_heads=16, mlp_size=5120),
    "g": ViTConfig(width=1408, depth=40, num_heads=16, mlp_size=6144),
    "g-opt": ViTConfig(width=1536, depth=40, num_heads=16, mlp_size=6144),
    "G": ViTConfig(width=1664, depth=48, num_heads=16, mlp_size=8192),
    "G-opt": ViTConfig(width=1536, depth=48, num_heads=16, mlp_size=8192),
    "e": ViTConfig(width=1792, depth=56, num_heads=16, mlp_size=15360),
}

# The patch sizes that are listed; `get_config` knows every other as well.
PATCH_SIZES = {
    "mu": (2, 4, 8, 16, 32),
    "Ti": (2, 4, 8, 16, 32),
    "S": (2, 4, 8, 14, 16, 32),
    "b": (16, 32),
    "M": (4, 8, 16, 32),
    "B": (4, 8, 14, 16, 32),
    "L": (8, 14, 16, 32),
    "So400m": (14, 16),
    "H": (14, 16, 32),
    "g": (14, 16),
    "g-opt": (14, 16),
    "G": (14, 16),
    "G-opt": (14, 16),
    "e": (14, 16),
}

# Hybrids (Dosovitskiy et al. 2021, section 3.1; Steiner et al. 2021): size, pixels of a token's side, units of each
# stage of the ResNet. The number behind the slash is that side, but for R+ViT-Ti/16: a root of stride 4 under patches
# of 8 cells is 32 pixels, whatever its name says.
HYBRIDS: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "R+ViT-Ti/16": ("Ti", 32, ()),
    "R26+ViT-S/32": ("S", 32, (2, 2, 2, 2)),
    "R26+ViT-B/32": ("B", 32, (2, 2, 2, 2)),
    "R50+ViT-B/32": ("B", 32, (3, 4, 6, 3)),
    "R50+ViT-B/16": ("B", 16, (3, 4, 9)),
    "R50+ViT-L/32": ("L", 32, (3, 4, 6, 3)),
    "R50+ViT-L/16": ("L", 16, (3, 4, 9)),
}

# Dosovitskiy et al. 2021, appendix D.6, compares B; `get_config` knows every other size as well.
AXIAL_PATCH_SIZES = {"S": (16, 32), "B": (16, 32)}

TIMM_NAMES = {
    "vit_tiny_patch16_224": "ViT-Ti/16",
    "vit_tiny_patch16_384": "ViT-Ti/16@384",
    "vit_small_patch32_224": "ViT-S/32",
    "vit_small_patch32_384": "ViT-S/32@384",
    "vit_small_patch16_224": "ViT-S/16",
    "vit_small_patch16_384": "ViT-S/16@384",
    "vit_small_patch8_224": "ViT-S/8",
    "vit_base_patch32_224": "ViT-B/32",
    "vit_base_patch32_384": "ViT-B/32@384",
    "vit_base_patch16_224": "ViT-B/16",
    "vit_base_patch16_384": "ViT-B/16@384",
    "vit_base_patch8_224": "ViT-B/8",
    "vit_large_patch32_224": "ViT-L/32",
    "vit_large_patch32_384": "ViT-L/32@384",
    "vit_large_patch16_224": "ViT-L/16",
    "vit_large_patch16_384": "ViT-L/16@384",
    "vit_large_patch14_224": "ViT-L/14",
    "vit_huge_patch14_224": "ViT-H/14",
    "vit_giant_patch14_224": "ViT-g/14",
    "vit_gigantic_patch14_224": "ViT-G/14",
    "deit_tiny_patch16_224": "ViT-Ti/16",
    "deit_small_patch16_224": "ViT-S/16",
    "deit_base_patch16_224": "ViT-B/16",
    "deit_base_patch16_384": "ViT-B/16@384",
    "vit_tiny_r_s16_p8_224": "R+ViT-Ti/16",
    "vit_tiny_r_s16_p8_384": "R+ViT-Ti/16@384",
    "vit_small_r26_s32_224": "R26+ViT-S/32",
    "vit_small_r26_s32_384": "R26+ViT-S/32@384",
    "vit_base_r26_s32_224": "R26+ViT-B/32",
    "vit_base_r50_s16_224": "R50+ViT-B/16",
    "vit_base_r50_s16_384": "R50+ViT-B/16@384",
    "vit_large_r50_s32_224": "R50+ViT-L/32",
    "vit_large_r50_s32_384": "R50+ViT-L/32@384",
}


def _timm_names(name: str) -> tuple[str, ...]:
    return tuple(timm_name for timm_name, own_name in TIMM_NAMES.items() if own_name == name)


def _hybrid(name: str) -> ViTConfig:
    size, patch_size, stages = HYBRIDS[name]
    return replace(SIZES[size], patch_size=patch_size, stem="resnet", stem_widths=(64,), stem_blocks=stages)


def _axial(config: ViTConfig) -> ViTConfig:
    """Its class token has no place in the grid; the paper does not say what is pooled instead: here the mean."""
    return replace(config, attention="axial", class_token=False, pooling="gap")


_CONFIGS = {
    f"ViT-{size}/{patch_size}": replace(SIZES[size], patch_size=patch_size)
    for size, patch_sizes in PATCH_SIZES.items()
    for patch_size in patch_sizes
}
_CONFIGS |= {name: _hybrid(name) for name in HYBRIDS}
_CONFIGS |= {
    f"Axial-ViT-{size}/{patch_size}": _axial(replace(SIZES[size], patch_size=patch_size))
    for size, patch_sizes in AXIAL_PATCH_SIZES.items()
    for patch_size in patch_sizes
}

VARIANTS = {name: Variant(name, config, _timm_names(name)) for name, config in _CONFIGS.items()}

_NAME = re.compile(
    r"(?P<kind>R\d*\+|Axial-)?ViT-(?P<size>[A-Za-z0-9-]+)/(?P<patch>[1-9]\d*)"
    r"(?:@(?P<height>[1-9]\d*)(?:x(?P<width>[1-9]\d*))?)?"
)


def get_config(name: str) -> ViTConfig:
    """The config of a variant, with 1000 classes.

    Args:
        name: "ViT-B/16" or "Axial-ViT-B/16" with any size of `SIZES` and any patch size, or a hybrid of `HYBRIDS`;
            "ViT-B/16@384" for another picture size, "ViT-B/16@256x384" for height x width; or timm's name,
            "vit_base_patch16_224", which for a hybrid gives timm's numerics.

    Raises:
        ConfigError: an unknown name (with the nearest known one), or a picture size that the patches do not divide.
    """
    own_name = TIMM_NAMES.get(name, name)
    match = _NAME.fullmatch(own_name)
    is_hybrid = match is not None and (match["kind"] or "").startswith("R")
    is_known = match is not None and (own_name.split("@")[0] in HYBRIDS if is_hybrid else match["size"] in SIZES)
    if match is None or not is_known:
        known = [*VARIANTS, *TIMM_NAMES]
        raise ConfigError(f"unknown model {name!r}.{did_you_mean(name, known)} Sizes: ViT-{{{','.join(SIZES)}}}/16.")
    if is_hybrid:
        config = replace(_hybrid(own_name.split("@")[0]), stem_numerics="timm" if name in TIMM_NAMES else "google")
    else:
        config = _axial(SIZES[match["size"]]) if match["kind"] else SIZES[match["size"]]
    patch_size = config.patch_size if is_hybrid else int(match["patch"])
    height = int(match["height"] or config.image_size[0])
    width = int(match["width"] or match["height"] or config.image_size[1])
    return replace(config, patch_size=patch_size, image_size=(height, width))
