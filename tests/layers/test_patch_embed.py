"""Laws of patches: their order, their inverse, their embedding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers.patch_embed import PatchEmbed, patchify, unpatchify

sides = st.integers(1, 4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(batch=st.integers(0, 3), channels=sides, grid=st.tuples(sides, sides), patch_size=sides)
def test_unpatchify_undoes_patchify(batch: int, channels: int, grid: tuple[int, int], patch_size: int) -> None:
    images = torch.randn(batch, channels, grid[0] * patch_size, grid[1] * patch_size)
    patches = patchify(images, patch_size)
    assert patches.shape == (batch, grid[0] * grid[1], patch_size**2 * channels)
    if batch:
        assert torch.equal(unpatchify(patches, patch_size, grid), images)


def test_a_patch_is_flat_in_row_column_channel_order() -> None:
    images = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    patches = patchify(images, 2)
    # The second patch of the upper row: columns 2 and 3 of rows 0 and 1, the channels of a pixel side by side.
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]
    # The first patch of the second row of the grid comes after all of the first row's.
    assert patches[0, 3, 0] == images[0, 0, 2, 0]


def test_the_embedding_is_one_matrix_applied_to_every_flat_patch() -> None:
    embed = PatchEmbed(3, 8, 4)
    images = torch.randn(2, 3, 8, 12)
    matrix = embed.proj.weight.permute(2, 3, 1, 0).reshape(-1, 8)  # rows in (row, column, channel) order
    expected = patchify(images, 4) @ matrix + embed.proj.bias
    torch.testing.assert_close(embed(images), expected, atol=1e-5, rtol=1e-5)


def test_a_patch_size_that_does_not_divide_the_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patch_size 3 does not divide .* 8 x 9"):
        patchify(torch.zeros(1, 3, 8, 9), 3)


def test_patches_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="5 patches do not fill a grid of 2 x 3"):
        unpatchify(torch.zeros(1, 5, 12), 2, (2, 3))
    with pytest.raises(ValueError, match="13 values"):
        unpatchify(torch.zeros(1, 6, 13), 2, (2, 3))
