"""Axial-ViT: what a token sees, what it costs, and what has no place in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitrail.errors import ConfigError
from vitrail.layers.axial_attention import AxialBlock
from vitrail.layers.block import Block, StochasticDepth
from vitrail.models.config import ViTConfig
from vitrail.models.costs import count_macs, count_parameters
from vitrail.models.variants import VARIANTS, get_config
from vitrail.models.vit import VisionTransformer

TINY = ViTConfig(
    image_size=(12, 20), patch_size=4, num_classes=3, width=16, depth=1, num_heads=2, mlp_size=24,
    attention="axial", class_token=False, pooling="gap",
)  # fmt: skip


def filled(config: ViTConfig) -> VisionTransformer:
    """A model of which no tensor is zero throughout, so that nothing is lost in it."""
    generator = torch.Generator().manual_seed(0)
    model = VisionTransformer(config, generator=generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def axial_block(config: ViTConfig) -> AxialBlock:
    (block,) = filled(config).blocks
    assert isinstance(block, AxialBlock)
    return block


def silence(block: Block) -> None:
    """Make it give back what it gets."""
    with torch.no_grad():
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()


# A ViT without class token (86,566,120 for B/16) and one more block of 7,087,872 (S: 1,774,464) for each of the twelve.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Axial-ViT-B/16", 86_566_120 + 12 * 7_087_872),
        ("Axial-ViT-B/32", 88_222_696 + 12 * 7_087_872),
        ("Axial-ViT-S/16", 22_049_896 + 12 * 1_774_464),
        ("Axial-ViT-S/32", 22_878_184 + 12 * 1_774_464),
    ],
)
def test_a_block_more_for_every_block_is_counted(name: str, expected: int) -> None:
    assert count_parameters(VARIANTS[name].config) == expected


def test_multiply_adds_are_what_torch_counts() -> None:
    config = VARIANTS["Axial-ViT-B/32"].config
    with torch.device("meta"):
        model = VisionTransformer(config, initialize=False)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * count_macs(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def test_multiply_adds_of_a_grid_that_is_no_square_are_what_torch_counts() -> None:
    config = replace(TINY, depth=3, position_placement="every_layer", layer_scale_init=0.1)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = VisionTransformer(config, initialize=False)
        model(torch.empty(2, 3, 12, 20))
    assert counter.get_total_flops() == 2 * 2 * count_macs(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def test_along_a_single_line_it_is_ordinary_attention_and_across_it_a_token_sees_itself() -> None:
    tokens = pictures(2, 5, 16)
    singles = tokens.reshape(10, 1, 16)
    row, column = (axial_block(replace(TINY, image_size=size)) for size in ((4, 20), (20, 4)))
    assert (row.grid, column.grid) == ((1, 5), (5, 1))
    with torch.no_grad():
        torch.testing.assert_close(row(tokens), row.columns(row.rows(tokens).reshape(10, 1, 16)).reshape(2, 5, 16))
        torch.testing.assert_close(column(tokens), column.columns(column.rows(singles).reshape(2, 5, 16)))


def test_rows_of_a_picture_are_columns_of_the_transposed_one() -> None:
    block, mirrored = axial_block(TINY), axial_block(replace(TINY, image_size=(20, 12)))
    silence(block.columns)
    mirrored.columns.load_state_dict(block.rows.state_dict())
    silence(mirrored.rows)
    grid = pictures(2, 3, 5, 16)
    with torch.no_grad():
        answer = block(grid.flatten(1, 2)).unflatten(1, (3, 5))
        from_transposed = mirrored(grid.transpose(1, 2).flatten(1, 2)).unflatten(1, (5, 3))
    assert not torch.equal(answer, grid)
    torch.testing.assert_close(from_transposed.transpose(1, 2), answer)


def test_a_token_reaches_its_row_then_every_token() -> None:
    block = axial_block(TINY)
    tokens = pictures(1, 15, 16)
    moved = tokens.clone()
    moved[0, 5 + 2, 3] += 3.0  # row 1, column 2

    def reached() -> Tensor:
        with torch.no_grad():
            return ((block(moved) - block(tokens)).abs().amax(-1) > 1e-6).reshape(3, 5)

    assert reached().all()
    silence(block.columns)
    assert torch.equal(reached(), torch.tensor([False, True, False])[:, None].expand(3, 5))


def test_stochastic_depth_drops_a_branch_of_whole_pictures() -> None:
    branch = StochasticDepth(0.5).train()(pictures(64, 3, 5, 16))
    dropped = (branch == 0).flatten(1)
    assert torch.equal(dropped.any(1), dropped.all(1))
    assert 0 < dropped.all(1).sum() < 64


def test_a_picture_does_not_leak_into_its_neighbour() -> None:
    model = filled(TINY)
    images = pictures(2, 3, 12, 20)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for is_on in (False, True):
        model = filled(TINY).train()
        model.gradient_checkpointing = is_on
        model(pictures(2, 3, 12, 20)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_token": True}, "class_token True"),
        ({"num_register_tokens": 4}, "num_register_tokens 4"),
        ({"position_embedding": "relative"}, "relative"),
        ({"attention": "windows"}, "none of global, axial"),
    ],
)
def test_what_has_no_place_in_the_grid_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_what_needs_a_sequence_is_refused() -> None:
    model = filled(TINY)
    tokens = model.embed(pictures(1, 3, 12, 20))
    with pytest.raises(ValueError, match="all 3 x 5 tokens"):
        model.encode(tokens[:, 1:])
    with pytest.raises(ValueError, match="causal"):
        model.encode(tokens, is_causal=True)
    with pytest.raises(ValueError, match="along rows and columns"):
        model.attention_weights(pictures(1, 3, 12, 20))


def test_every_size_can_be_named() -> None:
    config = get_config("Axial-ViT-Ti/8@64x96")
    assert (config.attention, config.grid, config.pooling) == ("axial", (8, 12), "gap")
    with pytest.raises(ConfigError, match=r"Did you mean 'Axial-ViT-B/16'"):
        get_config("axial-ViT-B/16")
