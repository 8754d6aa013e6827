"""Every option with every other: shapes, finite gradients, counted parameters and multiply-adds, on tiny models."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitrail.errors import ConfigError
from vitrail.models.config import ViTConfig
from vitrail.models.costs import count_macs, count_parameters
from vitrail.models.vit import VisionTransformer

OPTIONS = {
    "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "patch_size": st.sampled_from([1, 2, 4]),
    "in_channels": st.integers(1, 4),
    "num_classes": st.integers(0, 3),
    "width": st.sampled_from([8, 12]),
    "depth": st.integers(1, 3),
    "num_heads": st.sampled_from([1, 2, 4]),
    "head_dim": st.sampled_from([None, None, 3]),
    "mlp_size": st.integers(1, 9),
    "pooling": st.sampled_from(["token", "gap", "avg", "map", "token_and_gap"]),
    "pool_prefix": st.booleans(),
    "patch_norm": st.booleans(),
    "patch_bias": st.booleans(),
    "input_norm": st.booleans(),
    "class_token": st.booleans(),
    "num_register_tokens": st.integers(0, 2),
    "distillation_token": st.booleans(),
    "position_embedding": st.sampled_from(
        ["none", "learned_1d", "learned_2d", "relative", "sincos_2d_big_vision", "sincos_2d_mae", "sincos_2d_moco"]
    ),
    "position_placement": st.sampled_from(["input", "input", "every_layer", "every_layer_shared"]),
    "position_for_prefix": st.booleans(),
    "pre_logits_size": st.sampled_from([None, None, 5]),
    "activation": st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu"]),
    "block_style": st.sampled_from(["pre_norm", "post_norm"]),
    "qkv_bias": st.booleans(),
    "layer_scale_init": st.sampled_from([None, 0.1]),
    "dropout_rate": st.sampled_from([0.0, 0.2]),
    "attention_dropout_rate": st.sampled_from([0.0, 0.2]),
    "stochastic_depth_rate": st.sampled_from([0.0, 0.2]),
    "stem_widths": st.sampled_from([(), (), (3,), (4, 6)]),
    "stem_blocks": st.sampled_from([(), (0, 1)]),
}


@st.composite
def configs(draw: st.DrawFn) -> ViTConfig:
    fields: dict[str, Any] = {name: draw(option) for name, option in OPTIONS.items()}
    grid = fields.pop("grid")
    fields["image_size"] = (grid[0] * fields["patch_size"], grid[1] * fields["patch_size"])
    if fields["stem_widths"]:
        fields["stem"] = "conv"
        fields["patch_norm"] = False
        assume(fields["activation"] != "swiglu")
    if fields["pooling"] not in ("gap", "avg"):
        fields["pool_prefix"] = False
    if len(fields["stem_widths"]) != len(fields["stem_blocks"]):
        fields["stem_blocks"] = ()
    if fields["pooling"] != "token":
        fields["distillation_token"] = False
    try:
        return ViTConfig(**fields)
    except ConfigError:
        assume(False)
        raise


@settings(max_examples=150, deadline=None, derandomize=True)
@given(config=configs())
def test_every_combination_trains_and_is_counted(config: ViTConfig) -> None:
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    images = torch.randn(2, config.in_channels, *config.image_size)
    torch.manual_seed(0)
    assert model.forward_features(images).shape == (2, config.num_tokens, config.width)
    answer = model(images)
    assert answer.shape == (2, config.num_classes or config.num_features)
    (answer - 1).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    again = VisionTransformer(config, initialize=False)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images), again.eval()(images))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(config=configs())
def test_torch_counts_the_same_multiply_adds(config: ViTConfig) -> None:
    model = VisionTransformer(config).eval()
    # The counter does not know the CPU's fused kernel, but every product of the unfused one; and its book-keeping
    # of modules fails without gradients.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.randn(1, config.in_channels, *config.image_size))
    assert counter.get_total_flops() == 2 * count_macs(config)
