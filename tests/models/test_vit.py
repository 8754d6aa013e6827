"""Laws of the Vision Transformer as a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer

CONFIG = ViTConfig(image_size=(8, 12), patch_size=4, num_classes=5, width=16, depth=3, num_heads=2, mlp_size=24)


def model(**changes: Any) -> VisionTransformer:
    """A model whose head answers: the zero head would hide every mistake."""
    made = VisionTransformer(replace(CONFIG, **changes), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def pictures(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 12, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("stem", [{}, {"stem": "conv", "stem_widths": (6, 8), "stem_blocks": (0, 1)}])
def test_a_picture_does_not_leak_into_its_neighbour(stem: dict[str, Any]) -> None:
    made, images = model(**stem), pictures()
    before = made(images)
    images[1] = 1e3
    after = made(images)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_shapes_are_as_promised() -> None:
    made = model(num_register_tokens=2, pre_logits_size=7)
    tokens = made.forward_features(pictures())
    assert tokens.shape == (2, 1 + 2 + 6, 16)
    assert made.forward_head(tokens).shape == (2, 5)
    features = made.forward_head(tokens, pre_logits=True)
    assert features.shape == (2, 7)
    assert features.abs().max() < 1  # tanh
    torch.testing.assert_close(made.head(features), made(pictures()))


def test_without_classes_the_model_answers_with_features() -> None:
    assert model(num_classes=0)(pictures()).shape == (2, 16)
    assert model(num_classes=0, pre_logits_size=7)(pictures()).shape == (2, 7)


def test_a_picture_of_another_size_or_type_is_refused() -> None:
    made = model()
    with pytest.raises(ValueError, match=r"\(2, 3, 12, 8\) are not .* \(3, 8, 12\)"):
        made(torch.zeros(2, 3, 12, 8))
    with pytest.raises(ValueError, match=r"\(3, 8, 12\) are not"):
        made(torch.zeros(3, 8, 12))
    with pytest.raises(ValueError, match="uint8 are not floating point"):
        made(torch.zeros(2, 3, 8, 12, dtype=torch.uint8))


def test_intermediates_are_the_walk_of_the_forward_pass() -> None:
    made = model(num_register_tokens=1)
    stages = made.forward_intermediates(pictures())
    assert list(stages) == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"]
    assert {stage.shape for stage in stages.values()} == {(2, 8, 16)}
    assert torch.equal(stages["norm"], made.forward_features(pictures()))
    assert torch.equal(made.blocks[1](stages["blocks.0"]), stages["blocks.1"])
    last = made.forward_intermediates(pictures(), layers=[-1])
    assert list(last) == ["embed", "blocks.2", "norm"]
    assert torch.equal(last["blocks.2"], stages["blocks.2"])
    assert list(made.forward_intermediates(pictures(), layers=[])) == ["embed", "norm"]
    with pytest.raises(ValueError, match="layer 3 does not exist: the model has 3 blocks"):
        made.forward_intermediates(pictures(), layers=[3])


def test_attention_weights_sum_to_one_in_every_block() -> None:
    weights = model(position_embedding="relative").attention_weights(pictures())
    assert list(weights) == ["blocks.0", "blocks.1", "blocks.2"]
    for weight in weights.values():
        assert weight.shape == (2, 2, 7, 7)
        torch.testing.assert_close(weight.sum(-1), torch.ones(2, 2, 7))


@pytest.mark.parametrize("rates", [{}, {"dropout_rate": 0.3, "stochastic_depth_rate": 0.5}])
def test_checkpointing_gives_the_same_gradients(rates: dict[str, float]) -> None:
    made = model(**rates).train()
    gradients = []
    for checkpointing in (False, True):
        made.gradient_checkpointing = checkpointing
        made.zero_grad()
        torch.manual_seed(4)
        made(pictures(4)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in made.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(made.parameters()))
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("rate", ["dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"])
def test_what_is_dropped_repeats_with_the_seed_and_nothing_is_in_evaluation(rate: str) -> None:
    made = model(**{rate: 0.4})
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(made.train()(pictures(8)))
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])
    torch.testing.assert_close(made.eval()(pictures()), model()(pictures()))


def test_stochastic_depth_grows_linearly_from_zero_to_its_rate() -> None:
    blocks = model(stochastic_depth_rate=0.4).blocks
    assert [block.drop_path1.rate for block in blocks] == [0.0, 0.2, 0.4]
    assert [block.drop_path2.rate for block in blocks] == [0.0, 0.2, 0.4]


def test_fixed_positions_are_neither_parameters_nor_in_the_state() -> None:
    fixed, learned = model(position_embedding="sincos_2d_mae"), model()
    assert "pos_embed" in dict(fixed.named_buffers())
    assert "pos_embed" not in dict(fixed.named_parameters())
    assert "pos_embed" not in fixed.state_dict()
    assert "pos_embed" in learned.state_dict()


@pytest.mark.parametrize("placement", ["every_layer", "every_layer_shared"])
@pytest.mark.parametrize("kind", ["learned_1d", "learned_2d"])
def test_positions_are_added_at_the_start_of_every_layer(placement: str, kind: str) -> None:
    made = model(position_embedding=kind, position_placement=placement, num_register_tokens=1)
    positions = made.positions()
    assert positions is not None
    assert positions.shape == (3 if placement == "every_layer" else 1, 8, 16)
    stages = made.forward_intermediates(pictures())
    for index in (1, 2):
        added = positions[index if placement == "every_layer" else 0]
        expected = made.blocks[index](stages[f"blocks.{index - 1}"] + added)
        torch.testing.assert_close(stages[f"blocks.{index}"], expected)
    assert not torch.equal(made.blocks[1](stages["blocks.0"]), stages["blocks.1"])


def test_registers_have_no_position_and_the_class_token_only_if_asked() -> None:
    with_row = model(num_register_tokens=2).positions()
    without_row = model(num_register_tokens=2, position_for_prefix=False).positions()
    assert with_row is not None
    assert without_row is not None
    assert with_row[0].any(-1).tolist() == [True, False, False] + [True] * 6
    assert without_row[0].any(-1).tolist() == [False, False, False] + [True] * 6


def test_without_positions_the_patches_are_a_bag() -> None:
    made, images = model(position_embedding="none"), pictures()
    swapped = torch.cat([images[..., 4:8], images[..., :4], images[..., 8:]], dim=-1)
    torch.testing.assert_close(made(images), made(swapped), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model()(images), model()(swapped), atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "learned_1d"])
def test_a_subset_of_the_tokens_can_be_encoded(kind: str) -> None:
    made = model(position_embedding=kind)
    tokens = made.embed(pictures())
    assert made.encode(tokens[:, [0, 2, 5]]).shape == (2, 3, 16)
    assert torch.equal(made.encode(tokens), made.forward_features(pictures()))


def test_the_input_norm_is_the_last_step_before_the_first_block() -> None:
    made = model(input_norm=True, num_register_tokens=2, position_embedding="learned_1d")
    with torch.no_grad():
        made.norm_pre.weight.fill_(3.0)
        made.norm_pre.bias.zero_()
    tokens = made.embed(pictures())
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0)
    deviation = tokens[:, -made.config.num_patches :].std(dim=-1, correction=0)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 3.0), atol=1e-3, rtol=0)
    assert torch.equal(made.forward_intermediates(pictures())["embed"], tokens)
    assert torch.equal(made.encode(tokens), made.forward_features(pictures()))


def test_prefix_tokens_do_not_enter_a_mean_or_the_attention_pool() -> None:
    for pooling in ("gap", "avg", "map"):
        made = model(pooling=pooling, num_register_tokens=2)
        tokens = made.forward_features(pictures())
        changed = tokens.clone()
        changed[:, :3] = 1e3
        assert torch.equal(made.forward_head(tokens), made.forward_head(changed))
        changed[:, 3] = 1e3
        assert not torch.allclose(made.forward_head(tokens), made.forward_head(changed))


def test_gap_norms_then_means_and_avg_means_then_norms() -> None:
    gap, avg = model(pooling="gap"), model(pooling="avg")
    last = gap.forward_intermediates(pictures())["blocks.2"][:, 1:]
    torch.testing.assert_close(gap.pool(gap.forward_features(pictures())), gap.norm(last).mean(1))
    last = avg.forward_features(pictures())[:, 1:]
    torch.testing.assert_close(avg.pool(avg.forward_features(pictures())), avg.fc_norm(last.mean(1)))
    assert "fc_norm.weight" in avg.state_dict()
    assert "norm.weight" not in avg.state_dict()


def test_a_distilled_model_answers_with_the_mean_of_its_two_heads() -> None:
    made = model(distillation_token=True)
    tokens = made.forward_features(pictures())
    by_class, by_distillation = made.forward_both_heads(tokens)
    assert not torch.allclose(by_class, by_distillation)
    torch.testing.assert_close(made(pictures()), (by_class + by_distillation) / 2)
    with pytest.raises(ValueError, match="distillation_token"):
        model().forward_both_heads(tokens)


def test_a_model_laid_out_without_weights_takes_all_of_them() -> None:
    made = model(position_embedding="sincos_2d_moco")
    empty = VisionTransformer(made.config, initialize=False)
    empty.load_state_dict(made.state_dict())
    assert torch.equal(empty.eval()(pictures()), made(pictures()))


@pytest.mark.parametrize("kind", ["learned_1d", "relative"])
def test_half_precision_runs_close_to_single_precision(kind: str) -> None:
    made = model(position_embedding=kind)
    expected = made(pictures())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = made(pictures())
    torch.testing.assert_close(mixed.float(), expected, atol=0.1, rtol=0.1)
    halved = made.bfloat16()(pictures().bfloat16())
    torch.testing.assert_close(halved.float(), expected, atol=0.1, rtol=0.1)
