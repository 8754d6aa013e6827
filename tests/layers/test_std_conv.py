"""Standardised convolutions against published numbers and timm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers.std_conv import MaxPoolSame, StandardizedConv2d, pad_same, same_padding, standardize


@pytest.mark.parametrize(
    ("eps", "under", "outer", "inner"),
    [
        (1e-5, "std", 1.34162879, 0.4472096),  # vision_transformer
        (1e-10, "variance", 1.34164079, 0.4472136),  # BiT
        (1e-8, "variance", 1.34164078, 0.4472136),  # timm
    ],
)
def test_a_small_kernel_has_the_values_of_each_public_code(eps: float, under: str, outer: float, inner: float) -> None:
    kernel = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    found = standardize(kernel, eps, under).flatten()  # type: ignore[arg-type]
    torch.testing.assert_close(found, found.new_tensor([-outer, -inner, inner, outer]), atol=5e-8, rtol=0)


@pytest.mark.parametrize("under", ["std", "variance"])
def test_scale_and_offset_of_a_kernel_do_not_matter(under: str) -> None:
    kernel = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, changed = (standardize(k, 1e-10, under) for k in (kernel, 7 * kernel + 3))  # type: ignore[arg-type]
    torch.testing.assert_close(plain, changed)
    torch.testing.assert_close(plain.mean((1, 2, 3)), torch.zeros(5, dtype=torch.float64))


def test_a_kernel_of_one_value_has_a_finite_gradient() -> None:
    for under in ("std", "variance"):
        kernel = torch.ones(2, 3, 1, 1, requires_grad=True)
        standardize(kernel, 1e-5, under).sum().backward()  # type: ignore[arg-type]
        assert kernel.grad is not None
        assert bool(kernel.grad.isfinite().all())


def test_a_root_at_224_pads_as_tensorflow_does() -> None:
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(112, 3, 2) == (0, 1)
    assert same_padding(14, 3, 1) == (1, 1)
    assert same_padding(14, 1, 2) == (0, 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(1, 3))
def test_same_padding_gives_one_result_a_stride_as_timm_does(height: int, width: int, kernel: int, stride: int) -> None:
    timm_pad = pytest.importorskip("timm.layers").pad_same
    pictures = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    padded = pad_same(pictures, kernel, stride)
    torch.testing.assert_close(padded, timm_pad(pictures, (kernel, kernel), (stride, stride)))
    conv = StandardizedConv2d(2, 3, kernel, stride=stride)
    assert conv(pictures).shape[2:] == (-(-height // stride), -(-width // stride))


def test_padding_of_the_maximum_never_wins() -> None:
    found = MaxPoolSame(3, 2)(torch.full((1, 1, 5, 6), -7.0))
    torch.testing.assert_close(found, torch.full((1, 1, 3, 3), -7.0))


def test_a_convolution_is_timms_with_the_same_kernel() -> None:
    layers = pytest.importorskip("timm.layers")
    pictures = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    for padding, theirs in (
        ("same", layers.StdConv2dSame(3, 8, 3, stride=2, eps=1e-8)),
        (1, layers.StdConv2d(3, 8, 3, stride=2, padding=1, eps=1e-8)),
    ):
        ours = StandardizedConv2d(3, 8, 3, stride=2, padding=padding, eps=1e-8, eps_under="variance")  # type: ignore[arg-type]
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(pictures), theirs(pictures), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2)])
def test_gradients_on_features_one_cell_wide_are_finite(size: tuple[int, int], padding: int | str) -> None:
    """Whatever lay in memory before: some kernels of torch read what nobody has written."""
    conv = StandardizedConv2d(64, 64, 3, stride=2, padding=padding)  # type: ignore[arg-type]
    conv.initialize(torch.Generator().manual_seed(0))
    features = torch.randn(64, 64, *size, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(conv(features).square().sum(), conv.weight)[0]
    for _ in range(10):
        used = [
            torch.full((1 << power,), float("nan"), dtype=torch.bfloat16) for power in range(6, 20) for _ in range(4)
        ]
        del used
        with torch.autocast("cpu", torch.bfloat16):
            found = conv(features)
        gradient = torch.autograd.grad(found.float().square().sum(), conv.weight)[0]
        torch.testing.assert_close(gradient, wanted, atol=0.03 * float(wanted.abs().max()), rtol=0)
