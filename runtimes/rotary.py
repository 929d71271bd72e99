"""Rotary position embedding from a Hugging Face config: default, linear and llama3 scaling, rotate-half.

Sources: RoFormer (arXiv:2104.09864); the llama3 rule is the one of the Llama 3.1 model card. transformers 5 writes
`rope_parameters`, older versions `rope_theta` and `rope_scaling`; both are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel

Floats = npt.NDArray[np.float32]
KINDS = ("default", "linear", "llama3")


def rotary_tables(config: Mapping[str, Any], head_dim: int, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, head_dim / 2]; angles are float32 products, as transformers computes them."""
    frequencies = inverse_frequencies(config, head_dim).astype(np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    return np.cos(angles), np.sin(angles)


def rotate(vectors: Floats, cosines: Floats, sines: Floats) -> Floats:
    """vectors [heads, tokens, head_dim], tables [tokens, head_dim / 2]: pairs are (i, i + head_dim / 2)."""
    half = vectors.shape[-1] // 2
    first, second = vectors[..., :half], vectors[..., half:]
    return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def inverse_frequencies(config: Mapping[str, Any], head_dim: int) -> npt.NDArray[np.float64]:
    """[head_dim / 2] radians per position, after scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in KINDS:
        raise UnsupportedModel(
            f"rope scaling {kind!r} is not supported", hint=f"supported are {', '.join(KINDS)}"
        )
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0:
        raise UnsupportedModel("a rotary embedding over a part of the head is not supported")
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    plain = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if kind == "linear":
        return plain / float(rope["factor"])
    return _llama3(plain, rope) if kind == "llama3" else plain


def _llama3(plain: npt.NDArray[np.float64], rope: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Keep short wavelengths, divide long ones by `factor`, blend between the two limits."""
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    blend = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * plain / factor + blend * plain
