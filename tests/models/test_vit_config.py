"""Laws of the config: contradictions are refused by name, derived sizes follow, JSON brings it back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vitrail.configuration import from_dict, to_dict
from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig

CONTRADICTIONS = [
    ({"patch_size": 15}, r"patch_size 15 does not divide image_size 224 x 224"),
    ({"image_size": (224, 230)}, r"patch_size 16 does not divide image_size 224 x 230"),
    ({"image_size": (0, 224)}, r"image_size \(0, 224\)"),
    ({"image_size": 224}, r"image_size 224 is not \(height, width\)"),
    ({"width": 770}, r"width 770 is not divisible by num_heads 12"),
    ({"depth": 0}, r"depth 0 is not a whole number of at least 1"),
    ({"depth": True}, r"depth True"),
    ({"num_heads": 2.0}, r"num_heads 2.0"),
    ({"num_classes": -1}, r"num_classes -1"),
    ({"head_dim": 0}, r"head_dim 0"),
    ({"pre_logits_size": 0}, r"pre_logits_size 0"),
    ({"pooling": "mean"}, r"pooling 'mean' is none of token, gap, avg, map"),
    ({"class_token": 1}, r"class_token 1"),
    ({"input_norm": 1}, r"input_norm 1"),
    ({"patch_bias": None}, r"patch_bias None"),
    ({"class_token": False}, r"pooling 'token' .* class_token is False"),
    ({"distillation_token": True, "pooling": "gap"}, r"distillation_token needs pooling 'token', not 'gap'"),
    ({"distillation_token": True, "pre_logits_size": 8}, r"distillation_token .* pre_logits_size 8"),
    ({"position_embedding": "none", "position_placement": "every_layer"}, r"'none' .* 'every_layer'"),
    (
        {"position_embedding": "relative", "position_placement": "every_layer_shared"},
        r"'relative' .* 'every_layer_shared'",
    ),
    ({"position_embedding": "sincos_2d_mae", "position_placement": "every_layer"}, r"'sincos_2d_mae' is the same"),
    ({"position_embedding": "learned_2d", "width": 9, "num_heads": 3}, r"even width, not 9"),
    ({"position_embedding": "sincos_2d_moco", "width": 6, "num_heads": 3}, r"4 divides, not 6"),
    ({"position_embedding": "sincos_2d_big_vision", "width": 4, "num_heads": 2}, r"at least 8, not 4"),
    ({"dropout_rate": 1.0}, r"dropout_rate 1.0"),
    ({"stochastic_depth_rate": -0.1}, r"stochastic_depth_rate -0.1"),
    ({"attention_dropout_rate": float("nan")}, r"attention_dropout_rate nan"),
    ({"layer_norm_eps": 0.0}, r"layer_norm_eps 0.0"),
    ({"layer_scale_init": float("inf")}, r"layer_scale_init inf"),
    ({"head_bias_init": "-6.9"}, r"head_bias_init '-6.9'"),
    ({"stem_widths": (8,)}, r"stem_widths \(8,\) .* stem is 'patch'"),
    ({"stem_blocks": (1,)}, r"stem_blocks \(1,\) .* stem is 'patch'"),
    ({"stem": "conv"}, r"stem 'conv' needs stem_widths"),
    ({"stem": "conv", "stem_widths": (8, 0)}, r"stem_widths \(8, 0\)"),
    ({"stem": "conv", "stem_widths": (8,) * 5}, r"patch_size that 32 divides, not 16"),
]


@pytest.mark.parametrize(("fields", "message"), CONTRADICTIONS, ids=lambda value: str(value)[:60])
def test_a_contradiction_is_refused_by_the_name_of_its_fields(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**fields)  # type: ignore[arg-type]


def test_derived_sizes_follow_the_fields() -> None:
    config = ViTConfig(
        image_size=(32, 48),
        patch_size=8,
        distillation_token=True,
        num_register_tokens=4,
        stem="conv",
        stem_widths=(8, 8),
    )
    assert config.grid == (4, 6)
    assert (config.num_patches, config.num_prefix_tokens, config.num_tokens) == (24, 6, 30)
    assert config.num_position_prefix == 2
    assert config.attention_head_dim == 64
    assert config.patch_kernel_size == 2
    assert ViTConfig(pre_logits_size=5).num_features == 5


def test_json_brings_the_config_back() -> None:
    config = ViTConfig(image_size=(32, 48), patch_size=8, stem="conv", stem_widths=(8, 8), layer_scale_init=0.1)
    assert from_dict(ViTConfig, json.loads(json.dumps(to_dict(config))), "here") == config
    with pytest.raises(ConfigError, match="Did you mean 'patch_size'"):
        from_dict(ViTConfig, {"patch_sise": 8}, "here")


def test_configs_variants_and_costs_need_no_torch() -> None:
    modules = "vitrail.models.config, vitrail.models.variants, vitrail.models.costs"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
