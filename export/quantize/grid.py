"""The grid of scales: few significant bits, so that one number is the same in float16, bfloat16 and float32.

With n significant bits (`scheme.SCALE_SIGNIFICANT_BITS`: 7 for INT4 and INT2 codes, 4 for INT8 codes) a scale is m * 2**e with
2**(n-1) <= |m| < 2**n and e >= -24, the exponent of float16's smallest subnormal. Then `code * scale` is exact in float16 too, so
no engine rounds it, whatever type it dequantizes in. The cost is 0.05 % of the squared error for INT4; for INT8, whose
error is 200 times smaller to begin with, about a tenth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SMALLEST_SCALE = np.float32(2.0**-18)
LARGEST_SCALE = np.float32(
    2.0**8
)  # 128 times it, the largest dequantized INT8 weight, stays below float16's 65504


def round_to_grid(scales: Floats, significant_bits: int) -> Floats:
    """Nearest grid value of each scale (ties away from zero), sign kept, magnitude clamped to the grid's range."""
    dropped = 24 - significant_bits
    half, keep = np.uint32(1 << (dropped - 1)), np.uint32(0xFFFFFFFF ^ ((1 << dropped) - 1))
    bits = np.ascontiguousarray(scales, dtype=np.float32).view(np.uint32)
    return _clamp(((bits + half) & keep).view(np.float32))


def next_on_grid(scales: Floats, steps: int, significant_bits: int) -> Floats:
    """The grid value `steps` further from zero (negative: nearer) than each grid value in `scales`."""
    bits = np.ascontiguousarray(scales, dtype=np.float32).view(np.uint32)
    moved = bits.astype(np.int64) + steps * (1 << (24 - significant_bits))
    return _clamp(moved.astype(np.uint32).view(np.float32))


def is_on_grid(scales: npt.NDArray[np.floating], significant_bits: int) -> bool:
    """Whether every scale survives `round_to_grid` unchanged."""
    values = scales.astype(np.float32)
    return bool(np.array_equal(round_to_grid(values, significant_bits), values))


def _clamp(scales: Floats) -> Floats:
    clamped: Floats = np.clip(np.abs(scales), SMALLEST_SCALE, LARGEST_SCALE)
    return np.asarray(np.copysign(clamped, scales), dtype=np.float32)
