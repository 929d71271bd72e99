"""The grid of scales: 7 significant bits, so that one number is the same in float16, bfloat16 and float32.

A scale is m * 2**e with 64 <= |m| < 128 and e >= -24; the smallest magnitude is 2**-18, whose 7 bits are still exact
among float16's subnormals. An INT4 code has 4 bits, so code * scale needs 11: exact in float16 as well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeport.scheme import SCALE_SIGNIFICANT_BITS

Floats = npt.NDArray[np.float32]

SMALLEST_SCALE = np.float32(2.0**-18)
LARGEST_SCALE = np.float32(127 * 2.0**5)  # 8 * 4064 and its neighbours stay below float16's 65504

_DROPPED_BITS = 24 - SCALE_SIGNIFICANT_BITS
_HALF = np.uint32(1 << (_DROPPED_BITS - 1))
_KEEP = np.uint32(0xFFFFFFFF ^ ((1 << _DROPPED_BITS) - 1))


def round_to_grid(scales: Floats) -> Floats:
    """Nearest grid value of each scale (ties away from zero), sign kept, magnitude clamped to the grid's range."""
    bits = np.ascontiguousarray(scales, dtype=np.float32).view(np.uint32)
    rounded = ((bits + _HALF) & _KEEP).view(np.float32)
    return np.copysign(np.clip(np.abs(rounded), SMALLEST_SCALE, LARGEST_SCALE), rounded)


def next_on_grid(scales: Floats, steps: int) -> Floats:
    """The grid value `steps` further from zero (negative: nearer) than each grid value in `scales`."""
    bits = np.ascontiguousarray(scales, dtype=np.float32).view(np.uint32)
    moved = (bits.astype(np.int64) + steps * (1 << _DROPPED_BITS)).astype(np.uint32).view(np.float32)
    return np.copysign(np.clip(np.abs(moved), SMALLEST_SCALE, LARGEST_SCALE), moved)


def is_on_grid(scales: npt.NDArray[np.floating]) -> bool:
    """Whether every scale survives `round_to_grid` unchanged."""
    values = scales.astype(np.float32)
    return bool(np.array_equal(round_to_grid(values), values))
