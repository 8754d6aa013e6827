"""Laws of kernels made for other patches and other pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrail.layers.patch_embed import PatchEmbed, adapt_input_channels, resample_patch_embedding

METHODS = ("bilinear", "bicubic", "bicubic_antialias")


def resize(patches: Tensor, size: int, method: str) -> Tensor:
    mode, _, antialias = method.partition("_")
    return F.interpolate(patches, size=(size, size), mode=mode, align_corners=False, antialias=bool(antialias))


@pytest.mark.parametrize(
    ("kernel", "size", "method", "expected"),
    [
        (
            [[1, 2], [3, 4]],
            3,
            "bilinear",
            [0.11111, 0.44445, 0.77778, 0.77778, 1.11111, 1.44444, 1.44444, 1.77778, 2.11111],
        ),
        ([[1, 2], [3, 4]], 4, "bilinear", [0.025, 0.125, 0.325, 0.425]),
        ([[1, 2], [3, 4]], 4, "bicubic_antialias", [0.11413, 0.19964, 0.3692, 0.45471]),
        (torch.arange(16.0).view(4, 4).tolist(), 2, "bilinear", [10, 18, 42, 50]),
    ],
)
def test_resizing_gives_the_published_values(
    kernel: list[list[float]], size: int, method: str, expected: list[float]
) -> None:
    resized = resample_patch_embedding(torch.tensor(kernel)[None, None].float(), size, method)  # type: ignore[arg-type]
    assert resized.shape == (1, 1, size, size)
    torch.testing.assert_close(resized.flatten()[: len(expected)], torch.tensor(expected).float(), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(size=st.integers(1, 9), larger_by=st.integers(0, 9), method=st.sampled_from(METHODS), seed=st.integers(0, 99))
def test_a_larger_kernel_gives_resized_patches_the_same_tokens(
    size: int, larger_by: int, method: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(5, 2, size, size, generator=generator, dtype=torch.float64)
    patches = torch.randn(4, 2, size, size, generator=generator, dtype=torch.float64)
    to_size = size + larger_by
    resized = resample_patch_embedding(kernel, to_size, method)  # type: ignore[arg-type]
    torch.testing.assert_close(F.conv2d(resize(patches, to_size, method), resized), F.conv2d(patches, kernel))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(size=st.integers(2, 8), smaller_by=st.integers(1, 6), method=st.sampled_from(METHODS))
def test_a_smaller_kernel_is_the_best_one_for_white_noise(size: int, smaller_by: int, method: str) -> None:
    to_size = max(1, size - smaller_by)
    kernel = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    basis = torch.eye(size * size, dtype=torch.float64).view(size * size, 1, size, size)
    matrix = resize(basis, to_size, method).flatten(1)  # B^T
    best = torch.linalg.lstsq(matrix, kernel.flatten()[:, None], driver="gelsd").solution.view(to_size, to_size)
    torch.testing.assert_close(resample_patch_embedding(kernel, to_size, method)[0, 0], best)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_kernel_of_the_same_size_is_the_same_bit_for_bit(method: str) -> None:
    kernel = torch.randn(3, 2, 4, 4)
    assert torch.equal(resample_patch_embedding(kernel, 4, method), kernel)  # type: ignore[arg-type]


@pytest.mark.parametrize(("from_size", "to_size"), [(16, 8), (16, 14), (14, 16), (8, 30), (32, 16)])
@pytest.mark.parametrize("method", METHODS)
def test_timm_resizes_kernels_the_same_way(from_size: int, to_size: int, method: str) -> None:
    layers = pytest.importorskip("timm.layers")
    kernel = torch.randn(4, 3, from_size, from_size, generator=torch.Generator().manual_seed(0))
    mode, _, antialias = method.partition("_")
    theirs = layers.resample_patch_embed(kernel, [to_size, to_size], interpolation=mode, antialias=bool(antialias))
    ours = resample_patch_embedding(kernel, to_size, method)  # type: ignore[arg-type]
    # timm inverts in float32.
    torch.testing.assert_close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=0)


def test_a_kernel_that_cannot_be_resized_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\) is not \(width, channels, size, size\)"):
        resample_patch_embedding(torch.zeros(2, 3, 4, 5), 4)
    with pytest.raises(ValueError, match="0 pixels is empty"):
        resample_patch_embedding(torch.zeros(2, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="'nearest' is none of bilinear"):
        resample_patch_embedding(torch.zeros(2, 3, 4, 4), 8, "nearest")  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(old=st.integers(1, 5), times=st.integers(1, 4), grey=st.booleans())
def test_a_grey_picture_gives_the_same_tokens_through_other_channels(old: int, times: int, grey: bool) -> None:
    embed = PatchEmbed(old, 6, 2).double()
    channels = 1 if grey else old * times
    picture = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    expected = embed(picture.expand(-1, old, -1, -1))
    embed.proj.weight = torch.nn.Parameter(adapt_input_channels(embed.proj.weight.detach(), channels))
    torch.testing.assert_close(embed(picture.expand(-1, channels, -1, -1)), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 12])
def test_timm_adapts_channels_the_same_way(channels: int) -> None:
    adapt_input_conv = pytest.importorskip("timm.models").adapt_input_conv
    kernel = torch.randn(4, 3, 2, 2)
    theirs = adapt_input_conv(channels, kernel.clone())
    torch.testing.assert_close(adapt_input_channels(kernel, channels), theirs)


def test_no_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="0 channels"):
        adapt_input_channels(torch.zeros(4, 3, 2, 2), 0)
    with pytest.raises(ValueError, match=r"\(4, 12\) is not"):
        adapt_input_channels(torch.zeros(4, 12), 3)
