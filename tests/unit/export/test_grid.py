"""The grid of scales: what is on it is exact in every type, and so is every weight made with it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.export.quantize.grid import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    is_on_grid,
    next_on_grid,
    round_to_grid,
)
from edgeport.scheme import SCALE_SIGNIFICANT_BITS

BITS = st.sampled_from([2, 4, 8])
FLOATS = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
    min_size=1,
)


@given(FLOATS, BITS)
def test_a_rounded_scale_is_exact_everywhere(values: list[float], bits: int) -> None:
    scales = round_to_grid(np.array(values, np.float32), SCALE_SIGNIFICANT_BITS[bits])
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert np.array_equal(scales.astype(ml_dtypes.bfloat16).astype(np.float32), scales)
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.float32)
    weights = codes[:, None] * scales
    assert np.array_equal(weights.astype(np.float16).astype(np.float32), weights)
    # ... also when the engine multiplies in float16.
    assert np.array_equal(
        (codes[:, None].astype(np.float16) * scales.astype(np.float16)).astype(np.float32), weights
    )


@given(FLOATS, BITS)
def test_rounding_is_idempotent_and_keeps_sign_and_range(values: list[float], bits: int) -> None:
    significant = SCALE_SIGNIFICANT_BITS[bits]
    given_scales = np.array(values, np.float32)
    scales = round_to_grid(given_scales, significant)
    assert is_on_grid(scales, significant)
    assert np.array_equal(np.signbit(scales), np.signbit(given_scales))
    assert (np.abs(scales) >= SMALLEST_SCALE).all() and (np.abs(scales) <= LARGEST_SCALE).all()


@given(st.floats(2.0**-17, 2.0**7, width=32), st.sampled_from([-1.0, 1.0]), BITS)
def test_rounding_is_to_the_nearest(value: float, sign: float, bits: int) -> None:
    significant = SCALE_SIGNIFICANT_BITS[bits]
    scale = round_to_grid(np.array([sign * value], np.float32), significant)
    for step in (-1, 1):
        other = next_on_grid(scale, step, significant)
        assert abs(float(scale[0]) - sign * value) <= abs(float(other[0]) - sign * value)


@pytest.mark.parametrize("significant", [7, 4])
def test_the_grid_between_one_and_two(significant: int) -> None:
    count = 1 << (significant - 1)
    on_grid = np.array([1 + at / count for at in range(count)], np.float32)
    assert is_on_grid(on_grid, significant)
    assert not is_on_grid(on_grid + np.float32(0.4 / count), significant)
    assert np.array_equal(next_on_grid(on_grid[:-1], 1, significant), on_grid[1:])
    assert next_on_grid(np.array([2.0], np.float32), -1, significant)[0] == on_grid[-1]
    assert next_on_grid(-on_grid[1:], -1, significant).tolist() == (-on_grid[:-1]).tolist()


def test_steps_stop_at_the_ends() -> None:
    assert next_on_grid(np.array([SMALLEST_SCALE]), -9, 7)[0] == SMALLEST_SCALE
    assert next_on_grid(np.array([-LARGEST_SCALE]), 9, 7)[0] == -LARGEST_SCALE
