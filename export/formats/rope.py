"""Rotary frequencies from a RopeSpec, for the containers that store cosines instead of computing them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> npt.NDArray[np.float64]:
    """[rotary_dim / 2] radians per position, after scaling (RoFormer, arXiv:2104.09864; llama3: Llama 3.1 release; longrope:
    arXiv:2402.13753, its factors for short contexts). Cosine and sine have to be multiplied by rope.attention_factor."""
    frequencies = _unscaled(rope, head_dim)
    if rope.kind == "longrope":
        return frequencies / np.asarray(rope.short_factors, dtype=np.float64)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return frequencies / llama3_divisors(rope, head_dim)
    return frequencies


def llama3_divisors(rope: RopeSpec, head_dim: int) -> npt.NDArray[np.float64]:
    """[rotary_dim / 2]: 1 for short wavelengths, `factor` for long ones, a smooth mix between."""
    frequencies = _unscaled(rope, head_dim)
    wavelengths = 2 * math.pi / frequencies
    turns = rope.original_context_length / wavelengths
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    mixed = 1.0 / ((1 - smooth) / rope.factor + smooth)
    divisors = np.where(
        turns < rope.low_freq_factor, rope.factor, np.where(turns > rope.high_freq_factor, 1.0, mixed)
    )
    return np.asarray(divisors, dtype=np.float64)


def _unscaled(rope: RopeSpec, head_dim: int) -> npt.NDArray[np.float64]:
    width = rope.rotary_dim or head_dim
    frequencies = 1.0 / rope.theta ** (np.arange(0, width, 2, dtype=np.float64) / width)
    return np.asarray(frequencies, dtype=np.float64)
