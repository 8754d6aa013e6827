"""Attention along an axis with positions, against a loop over pairs of cells, and what a cell sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from vitrail.layers.axial_attention import PositionSensitiveAttention

HEADS, WIDTH = 2, 16


def attention(length: int, axis: str, *, normed: bool = True, seed: int = 0) -> PositionSensitiveAttention:
    generator = torch.Generator().manual_seed(seed)
    layer = PositionSensitiveAttention(WIDTH, HEADS, length, axis=axis)  # type: ignore[arg-type]
    layer.initialize(generator)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    if not normed:
        for name, _ in list(layer.named_children()):
            if name.startswith("norm"):
                setattr(layer, name, nn.Identity())
    return layer


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def by_loops(
    line: npt.NDArray[np.float64], kernel: npt.NDArray[np.float64], table: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """A line (length, WIDTH) as equation 5 of Wang et al. has it, one pair of cells after the other."""
    length, head_dim = len(line), WIDTH // HEADS
    half = head_dim // 2
    projected = (line @ kernel.T).reshape(length, HEADS, 2 * head_dim)
    answer = np.zeros((length, HEADS, head_dim))
    for head in range(HEADS):
        query, key, value = np.split(projected[:, head], [half, head_dim], axis=1)
        for i in range(length):
            logits = np.zeros(length)
            for j in range(length):
                # A vector for where j is as i sees it, and one for where i is as j sees it.
                seen_by_query, seen_by_key = table[i - j + length - 1], table[j - i + length - 1]
                logits[j] = query[i] @ key[j]
                logits[j] += query[i] @ seen_by_query[:half]
                logits[j] += key[j] @ seen_by_key[half:head_dim]
            weights = np.exp(logits) / np.exp(logits).sum()
            for j in range(length):
                answer[i, head] += weights[j] * (value[j] + table[i - j + length - 1][head_dim:])
    return answer.reshape(length, WIDTH)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_it_is_the_sum_over_pairs_of_cells(axis: str) -> None:
    features = maps(2, WIDTH, 3, 5)
    layer = attention(5 if axis == "rows" else 3, axis, normed=False).double()
    with torch.no_grad():
        answer = layer(features.double()).numpy()
    kernel = layer.qkv.weight.detach()[:, :, 0, 0].numpy()
    table = layer.relative_positions.detach().numpy()
    pixels = features.double().numpy()
    for picture in range(2):
        for line in range(3 if axis == "rows" else 5):
            place = (picture, slice(None), line) if axis == "rows" else (picture, slice(None), slice(None), line)
            np.testing.assert_allclose(answer[place].T, by_loops(pixels[place].T, kernel, table), rtol=1e-9, atol=1e-9)


def test_columns_of_a_map_are_rows_of_the_transposed_one() -> None:
    rows, columns = attention(5, "rows"), attention(5, "columns", seed=3)
    columns.load_state_dict(rows.state_dict())
    features = maps(2, WIDTH, 3, 5)
    with torch.no_grad():
        answer = columns(features.transpose(2, 3)).transpose(2, 3)
        torch.testing.assert_close(answer, rows(features))


@pytest.mark.parametrize(("axis", "length"), [("rows", 5), ("columns", 3)])
def test_a_cell_sees_its_line_alone_but_for_the_norms(axis: str, length: int) -> None:
    layer = attention(length, axis, normed=False)
    features = maps(1, WIDTH, 3, 5)
    moved = features.clone()
    moved[:, :, 1, 2] += maps(1, WIDTH)
    with torch.no_grad():
        reached = (layer(moved) - layer(features)).abs().amax(1)[0] > 1e-7
    expected = torch.zeros(3, 5, dtype=torch.bool)
    expected[1 if axis == "rows" else slice(None), slice(None) if axis == "rows" else 2] = True
    assert torch.equal(reached, expected)


def test_it_knows_where_a_cell_is_not_only_what_it_holds() -> None:
    layer = attention(5, "rows")
    features = maps(1, WIDTH, 3, 1).expand(-1, -1, -1, 5)  # all cells of a row are alike
    with torch.no_grad():
        answer = layer(features)
        assert (answer[..., 0] - answer[..., 1]).abs().max() > 1e-3
        layer.relative_positions.zero_()
        answer = layer(features)
        torch.testing.assert_close(answer[..., 0], answer[..., 1])


def test_a_picture_does_not_leak_into_its_neighbour() -> None:
    layer = attention(5, "rows")
    features = maps(2, WIDTH, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(features)[:1], layer(features[:1]))


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of 4 cells"):
        attention(5, "rows")(maps(1, WIDTH, 5, 4))
    with pytest.raises(ValueError, match="twice num_heads 16"):
        PositionSensitiveAttention(WIDTH, 16, 5, axis="rows")
