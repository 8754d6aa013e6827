"""Laws of the encoder block, its activations and its stochastic depth."""

from __future__ import annotations

import pytest
import torch

from vitrail.layers.attention import Attention
from vitrail.layers.block import Block, StochasticDepth
from vitrail.layers.mlp import Mlp, make_activation

GELU = {  # x: exact, tanh
    -3.0: (-0.0040496941, -0.0036373921),
    -1.0: (-0.1586552539, -0.1588080094),
    -0.5: (-0.1542687694, -0.1542859902),
    0.5: (0.3457312306, 0.3457140098),
    1.0: (0.8413447461, 0.8411919906),
    2.0: (1.9544997361, 1.9545976941),
    3.0: (2.9959503059, 2.9963626079),
}


@pytest.mark.parametrize("x", list(GELU))
def test_both_gelus_have_their_values(x: float) -> None:
    exact, tanh = GELU[x]
    value = torch.tensor(x, dtype=torch.float64)
    assert make_activation("gelu")(value).item() == pytest.approx(exact, abs=1e-10)
    assert make_activation("gelu_tanh")(value).item() == pytest.approx(tanh, abs=1e-10)


def test_the_gelus_are_farthest_apart_where_they_should_be() -> None:
    x = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    gap = (make_activation("gelu")(x) - make_activation("gelu_tanh")(x)).abs()
    assert gap.max().item() == pytest.approx(4.7324e-4, abs=1e-8)
    assert x[gap.argmax()].abs().item() == pytest.approx(2.699, abs=1e-3)


def test_quick_gelu_is_a_sigmoid_of_1_702_x_and_timms() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    ours = make_activation("quick_gelu")(x)
    torch.testing.assert_close(ours, x / (1 + torch.exp(-1.702 * x)), atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, timm_layers.get_act_layer("quick_gelu")()(x), atol=1e-12, rtol=0)


def test_an_unknown_activation_or_style_is_refused() -> None:
    with pytest.raises(ValueError, match="'swish'"):
        make_activation("swish")
    with pytest.raises(ValueError, match="'sandwich'"):
        block(style="sandwich")


def block(**options: object) -> Block:
    return Block(Attention(8, 2), Mlp(8, 16), width=8, **options)  # type: ignore[arg-type]


def test_a_pre_norm_block_with_silent_branches_is_the_identity() -> None:
    silent = block(layer_scale_init=0.0)
    tokens = torch.randn(2, 5, 8)
    assert torch.equal(silent(tokens), tokens)


def test_a_post_norm_block_ends_normalised() -> None:
    answer = block(style="post_norm")(3 * torch.randn(2, 5, 8) + 1)
    torch.testing.assert_close(answer.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(answer.var(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_a_post_norm_block_with_relu_is_torchs_encoder_layer() -> None:
    ours = block(style="post_norm", layer_norm_eps=1e-5)
    ours.mlp.act = torch.nn.ReLU()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj.": "self_attn.out_proj.",
        "mlp.fc1.": "linear1.",
        "mlp.fc2.": "linear2.",
    }
    state = {}
    for key, value in ours.state_dict().items():
        for own, other in names.items():
            key = key.replace(own, other)
        state[key] = value
    theirs.load_state_dict(state)
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens), atol=1e-5, rtol=1e-4)


def test_stochastic_depth_drops_whole_pictures_and_keeps_the_expectation() -> None:
    layer = StochasticDepth(0.25)
    torch.manual_seed(0)
    answer = layer(torch.ones(20_000, 2, 3))
    by_picture = answer.flatten(1)
    assert by_picture.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (by_picture == by_picture[:, :1]).all()
    assert answer.mean().item() == pytest.approx(1.0, abs=0.02)


def test_stochastic_depth_repeats_with_the_seed_and_rests_in_evaluation() -> None:
    layer = StochasticDepth(0.5)
    tokens = torch.randn(64, 2, 3)
    answers = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        answers.append(layer(tokens))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert torch.equal(layer.eval()(tokens), tokens)
