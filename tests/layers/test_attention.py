"""Laws of attention: fused equals explicit, heads do not mix, and torch's own module agrees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers.attention import Attention, attend, attention_weights
from vitrail.layers.initialization import initialize_layers
from vitrail.layers.mlp import Mlp
from vitrail.layers.pooling import AttentionPool, mean_of_patches


def seeded(layer: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn from a unit normal, so that no bias is zero and no norm the identity."""
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    num_heads=st.integers(1, 4),
    head_dim=st.integers(1, 9),
    num_tokens=st.integers(1, 12),
    qkv_bias=st.booleans(),
    relative=st.booleans(),
)
def test_the_explicit_weights_are_those_the_fused_kernel_applies(
    num_heads: int, head_dim: int, num_tokens: int, qkv_bias: bool, relative: bool
) -> None:
    attention = Attention(
        10, num_heads, head_dim=head_dim, qkv_bias=qkv_bias, relative_length=num_tokens if relative else None
    )
    seeded(attention)
    tokens = torch.randn(2, num_tokens, 10)
    weights = attention.attention_weights(tokens)
    assert weights.shape == (2, num_heads, num_tokens, num_tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, num_heads, num_tokens))
    value = attention.split_heads(tokens)[2]
    expected = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), expected, atol=2e-5, rtol=1e-4)


def test_torchs_own_multi_head_attention_agrees() -> None:
    ours = Attention(12, 3)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    tokens = torch.randn(2, 7, 12)
    answer, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(ours(tokens), answer, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.attention_weights(tokens), weights, atol=1e-6, rtol=1e-5)


def test_gradients_through_the_fused_kernel_are_those_of_the_explicit_product() -> None:
    query, key, value = (torch.randn(2, 3, 17, 8, requires_grad=True) for _ in range(3))
    weight = torch.randn(2, 3, 17, 8)
    fused = torch.autograd.grad((attend(query, key, value) * weight).sum(), (query, key, value))
    explicit = torch.autograd.grad(((attention_weights(query, key) @ value) * weight).sum(), (query, key, value))
    for ours, theirs in zip(fused, explicit, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_attention_without_positions_does_not_see_the_order_of_its_tokens() -> None:
    attention = Attention(8, 2)
    tokens = torch.randn(1, 6, 8)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(attention(tokens[:, order]), attention(tokens)[:, order], atol=1e-6, rtol=1e-5)


def test_relative_positions_see_it() -> None:
    attention = Attention(8, 2, relative_length=6)
    initialize_layers(attention, torch.Generator().manual_seed(0))
    seeded(attention)
    tokens = torch.randn(1, 6, 8)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert not torch.allclose(attention(tokens[:, order]), attention(tokens)[:, order], atol=1e-2)


def test_dropout_of_the_weights_is_off_in_evaluation_and_seeded_in_training() -> None:
    attention = Attention(8, 2, attention_dropout_rate=0.5)
    tokens = torch.randn(2, 6, 8)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(attention(tokens))
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    plain = Attention(8, 2)
    plain.load_state_dict(attention.state_dict())
    assert torch.equal(attention.eval()(tokens), plain(tokens))


def test_heads_that_do_not_divide_the_width_are_refused_without_a_head_dim() -> None:
    with pytest.raises(ValueError, match="width 10 is not divisible by num_heads 3"):
        Attention(10, 3)
    assert Attention(10, 3, head_dim=4)(torch.zeros(1, 2, 10)).shape == (1, 2, 10)


def test_the_mean_leaves_the_prefix_out() -> None:
    tokens = torch.tensor([[[100.0], [1.0], [3.0]]])
    assert mean_of_patches(tokens, 1).item() == 2.0


def test_the_probe_does_not_see_the_order_of_the_tokens() -> None:
    pool = AttentionPool(8, 2, 4, Mlp(8, 16))
    seeded(pool)
    tokens = torch.randn(2, 5, 8)
    assert pool(tokens).shape == (2, 8)
    torch.testing.assert_close(pool(tokens.flip(1)), pool(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("relative_length", [None, 6])
def test_causal_attention_keeps_later_tokens_out_of_earlier_ones(relative_length: int | None) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, relative_length=relative_length)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 6, 8)
    changed = tokens.clone()
    changed[:, 4:] += 1.0
    before, after = attention(tokens, is_causal=True), attention(changed, is_causal=True)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=0)
    assert not torch.allclose(attention(tokens)[:, :4], attention(changed)[:, :4])
    # The last token sees everything either way.
    torch.testing.assert_close(before[:, -1], attention(tokens)[:, -1])


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_learning_in_bfloat16_computes_what_float32_does(is_causal: bool, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3)]
    bias = torch.randn(2, 3, 7, 7, generator=generator) if has_bias else None
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        parts = [tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors]
        answer = attend(*parts, None if bias is None else bias.to(dtype), is_causal=is_causal)
        assert answer.dtype == dtype
        answer.float().square().sum().backward()
        found.append([answer.float(), *(part.grad.float() for part in parts if part.grad is not None)])
    assert len(found[0]) == len(found[1]) == 4
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).abs().max() < 0.03 * exact.abs().max()
