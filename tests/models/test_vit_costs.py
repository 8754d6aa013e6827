"""Published parameter counts and multiply-adds, from the formulas and from the modules themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils import flop_counter

from vitrail.models.config import ViTConfig
from vitrail.models.costs import count_macs, count_parameters
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer


def parameters(config: ViTConfig) -> int:
    with torch.device("meta"):
        model = VisionTransformer(config, initialize=False)
    return sum(parameter.numel() for parameter in model.parameters())


GAP = {"pooling": "gap", "class_token": False}
MAP = {"pooling": "map", "class_token": False}
JFT = 18_291
# The counts in the tests of google-research/vision_transformer, and others computed from its modules.
COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("ViT-Ti/16", {}, 5_717_416),
    ("ViT-S/32", {}, 22_878_952),
    ("ViT-S/16", {}, 22_050_664),
    ("ViT-B/32", {}, 88_224_232),
    ("ViT-B/16", {}, 86_567_656),
    ("ViT-B/8", {}, 86_576_872),
    ("ViT-L/16", {}, 304_326_632),
    ("ViT-L/32", {}, 306_535_400),
    ("ViT-H/14", {}, 632_045_800),
    ("ViT-B/16", GAP, 86_566_120),
    ("ViT-B/32", GAP, 88_222_696),
    ("ViT-S/16", GAP, 22_049_896),
    ("ViT-S/32", GAP, 22_878_184),
    ("ViT-mu/16", {"width": 10, "mlp_size": 10}, 21_390),
    ("ViT-S/16", {**GAP, "position_embedding": "sincos_2d_big_vision", "pre_logits_size": 384}, 22_122_472),
    ("ViT-B/16", {"position_for_prefix": False}, 86_566_888),
    ("ViT-B/16", MAP, 93_653_224),
    ("ViT-L/16", MAP, 316_919_784),
    ("ViT-B/16", {"num_classes": JFT, "pre_logits_size": 768}, 100_455_027),
    ("ViT-L/16", {"num_classes": JFT, "pre_logits_size": 1024}, 323_099_507),
    ("ViT-H/14", {"num_classes": JFT, "pre_logits_size": 1280}, 655_835_251),
    ("R+ViT-Ti/16", {}, 6_337_704),
    ("R26+ViT-S/32", {}, 36_431_912),
    ("R26+ViT-B/32", {}, 101_383_976),
    ("R50+ViT-B/32", {}, 110_945_832),
    ("R50+ViT-B/16", {}, 98_659_112),
    ("R50+ViT-L/32", {}, 328_994_856),
    ("R50+ViT-L/16", {}, 316_483_624),
]


@pytest.mark.parametrize(("name", "changes", "expected"), COUNTS, ids=lambda value: str(value)[:40])
def test_published_parameter_counts_hold(name: str, changes: dict[str, Any], expected: int) -> None:
    config = replace(get_config(name), **changes)
    assert count_parameters(config) == expected
    assert parameters(config) == expected


# name: tokens, parameters without head, with 1000 classes, with 21843, with 21843 and pre-logits; GMACs with 1000.
TABLE = {
    "Ti/16@224": (197, 5_524_416, 5_717_416, 9_740_115, 9_777_171, 1.254),
    "Ti/16@384": (577, 5_597_376, 5_790_376, 9_813_075, 9_850_131, 4.682),
    "S/32@224": (50, 22_493_952, 22_878_952, 30_903_507, 31_051_347, 1.143),
    "S/32@384": (145, 22_530_432, 22_915_432, 30_939_987, 31_087_827, 3.443),
    "S/16@224": (197, 21_665_664, 22_050_664, 30_075_219, 30_223_059, 4.599),
    "S/16@384": (577, 21_811_584, 22_196_584, 30_221_139, 30_368_979, 15.490),
    "S/8@224": (785, 21_670_272, 22_055_272, 30_079_827, 30_227_667, 22.406),
    "B/32@224": (50, 87_455_232, 88_224_232, 104_252_499, 104_843_091, 4.409),
    "B/32@384": (145, 87_528_192, 88_297_192, 104_325_459, 104_916_051, 13.044),
    "B/16@224": (197, 85_798_656, 86_567_656, 102_595_923, 103_186_515, 17.564),
    "B/16@384": (577, 86_090_496, 86_859_496, 102_887_763, 103_478_355, 55.484),
    "B/8@224": (785, 85_807_872, 86_576_872, 102_605_139, 103_195_731, 78.148),
    "L/32@224": (50, 305_510_400, 306_535_400, 327_899_475, 328_949_075, 15.378),
    "L/32@384": (145, 305_607_680, 306_632_680, 327_996_755, 329_046_355, 45.276),
    "L/16@224": (197, 303_301_632, 304_326_632, 325_690_707, 326_740_307, 61.555),
    "L/16@384": (577, 303_690_752, 304_715_752, 326_079_827, 327_129_427, 191.066),
    "L/16@512": (1025, 304_149_504, 305_174_504, 326_538_579, 327_588_179, 361.986),
    "L/14@224": (257, 303_178_752, 304_203_752, 325_567_827, 326_617_427, 81.013),
    "H/14@224": (257, 630_764_800, 632_045_800, 658_745_683, 660_385_363, 167.295),
    "H/16@224": (197, 630_918_400, 632_199_400, 658_899_283, 660_538_963, 127.315),
    "H/14@518": (1370, 632_189_440, 633_470_440, 660_170_323, 661_810_003, 1016.717),
    "g/14@224": (257, 1_011_202_432, 1_012_611_432, 1_041_979_219, 1_043_963_091, 267.031),
    "g/16@224": (197, 1_011_371_392, 1_012_780_392, 1_042_148_179, 1_044_132_051, 203.408),
    "G/14@224": (257, 1_842_775_680, 1_844_440_680, 1_879_144_275, 1_881_914_835, 483.748),
    "e/14@224": (257, 3_805_421_312, 3_807_214_312, 3_844_585_811, 3_847_798_867, 990.677),
}


@pytest.mark.parametrize("name", list(TABLE))
def test_every_published_size_has_its_tokens_parameters_and_macs(name: str) -> None:
    tokens, without_head, imagenet, imagenet21k, with_pre_logits, gmacs = TABLE[name]
    config = get_config(f"ViT-{name}")
    assert config.num_tokens == tokens
    assert count_parameters(replace(config, num_classes=0)) == without_head
    assert count_parameters(config) == imagenet
    assert count_parameters(replace(config, num_classes=21_843)) == imagenet21k
    assert count_parameters(replace(config, num_classes=21_843, pre_logits_size=config.width)) == with_pre_logits
    assert count_macs(config) / 1e9 == pytest.approx(gmacs, abs=6e-4)


BLOCKS = {
    "mu": 12_704,
    "Ti": 444_864,
    "S": 1_774_464,
    "M": 3_152_384,
    "B": 7_087_872,
    "L": 12_596_224,
    "So400m": 15_239_504,
    "H": 19_677_440,
    "g": 25_250_176,
    "g-opt": 28_331_520,
    "G": 38_361_728,
    "G-opt": 34_625_024,
    "e": 67_926_784,
}


@pytest.mark.parametrize("size", list(BLOCKS))
def test_a_block_of_every_size_has_its_published_parameters(size: str) -> None:
    config = get_config(f"ViT-{size}/16")
    with torch.device("meta"):
        block = VisionTransformer(replace(config, depth=1), initialize=False).blocks[0]
    assert sum(parameter.numel() for parameter in block.parameters()) == BLOCKS[size]
    one_more = count_parameters(replace(config, depth=config.depth + 1)) - count_parameters(config)
    assert one_more == BLOCKS[size]


@pytest.mark.parametrize("stages", [(), (2,), (3, 4, 9), (2, 2, 2, 2)])
def test_multiply_adds_of_a_hybrid_are_what_torch_counts(stages: tuple[int, ...]) -> None:
    config = ViTConfig(
        image_size=(64, 96), patch_size=32, width=24, depth=1, num_heads=2, mlp_size=48, num_classes=5,
        stem="resnet", stem_widths=(32,), stem_blocks=stages,
    )  # fmt: skip
    counter = flop_counter.FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        VisionTransformer(config, initialize=False).eval()(torch.empty(1, 3, 64, 96))
    assert count_macs(config) == counter.get_total_flops() // 2
    assert count_parameters(config) == parameters(config)
