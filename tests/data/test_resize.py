"""Resizing of training crops: the kernel's pixels are torch's, which are those of a machine without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.pixel_kernels import PixelKernels, axis, pixel_kernels, plain_resize
from vitrail.data.resize import resize, resize_by_torch

INTERPOLATIONS = ("bilinear", "bicubic")
needs_kernels = pytest.mark.skipif(pixel_kernels() is None, reason="no processor with AVX512-VBMI, or no compiler")


def pixels_of(shape: tuple[int, ...], extreme: bool, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    if extreme:
        return draw.integers(0, 2, shape, dtype=np.uint8) * np.uint8(255)
    return draw.integers(0, 256, shape, dtype=np.uint8)


sizes = st.integers(1, 600) | st.integers(1, 20)
targets = st.integers(1, 300) | st.sampled_from([1, 16, 64, 224])


@needs_kernels
@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(sizes, sizes),
    to=st.tuples(targets, targets),
    around=st.tuples(*[st.integers(0, 9)] * 4),
    channels=st.sampled_from([3, 3, 1]),
    interpolation=st.sampled_from(INTERPOLATIONS),
    mirrored=st.booleans(),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_kernel_gives_the_pixels_of_torch(size, to, around, channels, interpolation, mirrored, extreme, seed):
    top, bottom, left, right = around
    whole = pixels_of((top + size[0] + bottom, left + size[1] + right, channels), extreme, seed)
    crop = whole[top : top + size[0], left : left + size[1]]
    found = resize(crop, to, interpolation, mirrored)
    assert found.shape == (channels, *to)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    np.testing.assert_array_equal(found, resize_by_torch(crop, to, interpolation, mirrored))


@needs_kernels
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(3, 5000), (5000, 3), (1, 1), (70, 4097)])
def test_far_shrunken_pictures_too(interpolation, size):
    pixels = pixels_of((*size, 3), extreme=False, seed=1)
    for to in [(7, 33), (224, 224)]:
        np.testing.assert_array_equal(resize(pixels, to, interpolation), resize_by_torch(pixels, to, interpolation))


@needs_kernels
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_weights_are_those_of_torch(interpolation):
    # A wrong weight changes few pixels, so there are many rows; these sizes have weights halfway between two numbers.
    for width in (1, 7, 112, 149, 223, 224, 225, 299, 336, 448, 513):
        pixels = pixels_of((1500, width, 1), extreme=True, seed=width)
        found = resize(pixels, (1500, 224), interpolation)
        np.testing.assert_array_equal(found, resize_by_torch(pixels, (1500, 224), interpolation))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_the_kernel_is_checked_against_gives_the_pixels_of_torch(interpolation, mirrored):
    for size, to in [((40, 90), (30, 70)), ((33, 47), (50, 18)), ((9, 300), (5, 33))]:
        pixels = pixels_of((*size, 3), extreme=False, seed=2)
        expected = resize_by_torch(pixels, to, interpolation, mirrored)
        np.testing.assert_array_equal(plain_resize(pixels, to, interpolation, mirrored), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_weights_of_one_output_sum_to_about_one(interpolation):
    for size in (1, 30, 224, 500):
        made = axis(size, 224, interpolation)
        # Each weight is rounded on its own.
        assert np.abs(made.weights.sum(1) / 2.0**made.precision - 1).max() <= made.weights.shape[1] / 2**made.precision
        assert (np.diff(made.first) >= 0).all()


@needs_kernels
def test_a_kernel_that_computes_something_else_is_not_believed(monkeypatch):
    resized = PixelKernels.resize
    monkeypatch.setattr(PixelKernels, "resize", lambda *arguments: resized(*arguments) ^ 1)
    assert pixel_kernels.__wrapped__() is None


def test_without_a_compiler_pixels_come_from_torch(monkeypatch):
    pixels = pixels_of((30, 40, 3), extreme=False, seed=3)
    expected = resize(pixels, (20, 20), "bicubic", True)
    monkeypatch.setattr("vitrail.data.resize.pixel_kernels", lambda: None)
    np.testing.assert_array_equal(resize(pixels, (20, 20), "bicubic", True), expected)


@needs_kernels
def test_resizing_with_the_kernel_does_not_load_torch():
    program = """
import sys, numpy as np
from vitrail.data.resize import resize
resize(np.zeros((300, 400, 3), np.uint8), (224, 224), "bilinear", True)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
