"""Laws of positions: published tables, published resampling values, and what a relative position means."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers.position_embed import (
    LearnedPositions2D,
    RelativePositions,
    ResampleMethod,
    resample_position_embedding,
    sincos_2d,
    spread_positions,
)

ONE_SIX = (1 / 3, 2 / 3, 4 / 3, 5 / 3, 7 / 3, 8 / 3)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("sincos_2d_big_vision", [0.841471, 1e-4, 0.540302, 1, 0, 0, 1, 1]),
        ("sincos_2d_mae", [0.841471, 0.01, 0.540302, 0.99995, 0, 0, 1, 1]),
        ("sincos_2d_moco", [0, 0, 1, 1, 0.841471, 0.01, 0.540302, 0.99995]),
    ],
)
def test_the_three_sincos_tables_have_their_published_values(version: str, expected: list[float]) -> None:
    table = sincos_2d((2, 2), 8, version)  # type: ignore[arg-type]
    np.testing.assert_allclose(table[0, 1], expected, atol=2e-6)  # row 0, column 1


def test_mae_is_moco_on_the_transposed_grid() -> None:
    mae = sincos_2d((3, 5), 16, "sincos_2d_mae").unflatten(1, (3, 5))
    moco = sincos_2d((5, 3), 16, "sincos_2d_moco").unflatten(1, (5, 3))
    assert torch.equal(mae, moco.transpose(1, 2))


def test_big_visions_table_differs_from_maes_by_the_published_amount() -> None:
    difference = sincos_2d((14, 14), 384, "sincos_2d_big_vision") - sincos_2d((14, 14), 384, "sincos_2d_mae")
    assert difference.abs().max().item() == pytest.approx(0.0489, abs=1e-4)


@pytest.mark.parametrize("width", [6, 4])
def test_a_width_that_sincos_cannot_split_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"not {width}"):
        sincos_2d((2, 2), width, "sincos_2d_big_vision")


RESAMPLED = {
    ("bilinear_align_corners", 3): [0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3],
    ("bilinear_align_corners", 4): [
        *(0, ONE_SIX[0], ONE_SIX[1], 1),
        *(ONE_SIX[1], 1, ONE_SIX[2], ONE_SIX[3]),
        *(ONE_SIX[2], ONE_SIX[3], 2, ONE_SIX[4]),
        *(2, ONE_SIX[4], ONE_SIX[5], 3),
    ],
    ("bilinear", 3): [0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3],
    ("bilinear", 4): [0, 0.25, 0.75, 1, 0.5, 0.75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2, 2.25, 2.75, 3],
    ("bicubic", 3): [-0.26042, 0.32639, 0.91319, 0.91319, 1.5, 2.08681, 2.08681, 2.67361, 3.26042],
    ("bicubic", 4): [-0.31641, 0.01562, 0.5625, 0.89453],
    ("bicubic_antialias", 3): [-0.19737, 0.36842, 0.93421, 0.93421, 1.5, 2.06579, 2.06579, 2.63158, 3.19737],
    ("bicubic_antialias", 4): [-0.26471, 0.03067, 0.61639, 0.91176],
    ("bicubic_offset", 3): [-0.27011, 0.28365, 0.88656, 0.83742, 1.39118, 1.99409, 2.04323, 2.597, 3.19991],
    ("bicubic_offset", 4): [-0.31887, -0.00476, 0.52908, 0.88512],
}


@pytest.mark.parametrize(("method", "side"), list(RESAMPLED))
def test_resampling_gives_each_codes_values(method: str, side: int) -> None:
    table = torch.tensor([[[7.0], [0.0], [1.0], [2.0], [3.0]]])
    expected = RESAMPLED[method, side]
    resampled = resample_position_embedding(table, (2, 2), (side, side), 1, method)  # type: ignore[arg-type]
    assert resampled.shape == (1, 1 + side * side, 1)
    assert resampled[0, 0, 0] == 7.0  # the class token's row is not touched
    np.testing.assert_allclose(resampled[0, 1 : 1 + len(expected), 0], expected, atol=1.5e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    from_grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    to_grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    num_prefix=st.integers(0, 3),
    method=st.sampled_from(["bilinear_align_corners", "bilinear", "bilinear_antialias", "bicubic_align_corners"]),
)
def test_a_constant_table_stays_constant_on_any_rectangle(
    from_grid: tuple[int, int], to_grid: tuple[int, int], num_prefix: int, method: str
) -> None:
    table = torch.full((2, num_prefix + from_grid[0] * from_grid[1], 4), 0.75)
    resampled = resample_position_embedding(table, from_grid, to_grid, num_prefix, method)  # type: ignore[arg-type]
    assert resampled.shape == (2, num_prefix + to_grid[0] * to_grid[1], 4)
    torch.testing.assert_close(resampled, torch.full_like(resampled, 0.75), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["bilinear_align_corners", "bicubic_antialias", "bicubic_offset"])
def test_resampling_to_the_same_grid_is_identity(method: str) -> None:
    table = torch.randn(1, 1 + 6, 4)
    assert torch.equal(resample_position_embedding(table, (2, 3), (2, 3), 1, method), table)  # type: ignore[arg-type]


def test_rows_are_stretched_by_rows_and_columns_by_columns() -> None:
    rows = torch.arange(2.0)[:, None].expand(2, 3).reshape(1, 6, 1)  # every patch holds its row
    resampled = resample_position_embedding(rows, (2, 3), (3, 5), 0)
    expected = torch.tensor([0.0, 0.5, 1.0])[:, None].expand(3, 5).reshape(1, 15, 1)
    torch.testing.assert_close(resampled, expected)


@pytest.mark.parametrize("method", get_args(ResampleMethod))
@pytest.mark.parametrize(
    ("from_grid", "to_grid"), [((4, 1), (6, 1)), ((4, 3), (6, 1)), ((4, 3), (2, 1)), ((2, 4), (1, 1))]
)
def test_a_grid_stretches_as_its_transpose_does(
    from_grid: tuple[int, int], to_grid: tuple[int, int], method: ResampleMethod
) -> None:
    table = torch.randn(1, from_grid[0] * from_grid[1], 2, generator=torch.Generator().manual_seed(0))
    turned = table.unflatten(1, from_grid).transpose(1, 2).flatten(1, 2)
    stretched = resample_position_embedding(table, from_grid, to_grid, 0, method)
    expected = resample_position_embedding(turned, from_grid[::-1], to_grid[::-1], 0, method)
    expected = expected.unflatten(1, to_grid[::-1]).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(stretched, expected)


def test_resampling_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 4\) is not \(tables, 0 \+ 2 x 2"):
        resample_position_embedding(torch.zeros(1, 5, 4), (2, 2), (3, 3), 0)
    with pytest.raises(ValueError, match="'nearest' is none of"):
        resample_position_embedding(torch.zeros(1, 4, 4), (2, 2), (3, 3), 0, "nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        resample_position_embedding(torch.zeros(1, 4, 4), (2, 2), (0, 3), 0)


def test_two_dimensional_positions_are_a_columns_half_then_a_rows_half() -> None:
    positions = LearnedPositions2D(2, (2, 3), 8, 1)
    positions.initialize(torch.Generator().manual_seed(0))
    table = positions()
    assert table.shape == (2, 1 + 6, 8)
    assert positions.prefix is not None
    assert torch.equal(table[:, 0], positions.prefix[:, 0])
    patch = 1 + 1 * 3 + 2  # row 1, column 2
    assert torch.equal(table[1, patch, :4], positions.columns[1, 2])
    assert torch.equal(table[1, patch, 4:], positions.rows[1, 1])


def test_a_relative_logit_is_the_query_times_the_vector_of_the_offset() -> None:
    positions = RelativePositions(4, 6)
    positions.initialize(torch.Generator().manual_seed(0))
    query = torch.randn(2, 3, 4, 6)
    logits = positions(query)
    for asks in range(4):
        for answers in range(4):
            expected = query[:, :, asks] @ positions.table[asks - answers + 3] / 6**0.5
            torch.testing.assert_close(logits[:, :, asks, answers], expected)


def test_a_part_of_the_sequence_has_no_relative_positions() -> None:
    with pytest.raises(ValueError, match="3 tokens have no relative positions in a table of 7 offsets"):
        RelativePositions(4, 6)(torch.zeros(1, 1, 3, 6))


def test_prefix_tokens_without_a_position_get_zeros_behind_those_with_one() -> None:
    table = torch.ones(1, 1 + 4, 2)
    spread = spread_positions(table, 1, 3)
    assert spread[0, :, 0].tolist() == [1, 0, 0, 1, 1, 1, 1]
