"""Rotary position embedding from a layer's settings: default, linear, llama3 and longrope scaling, rotate-half.

Sources: RoFormer (arXiv:2104.09864); the llama3 rule is the one of the Llama 3.1 model card; LongRoPE (arXiv:2402.13753) as
transformers computes it. transformers 5 writes the settings as `rope_parameters`, older versions as `rope_theta` and `rope_scaling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel

Floats = npt.NDArray[np.float32]
Settings = Mapping[str, Any]
KINDS = ("default", "linear", "llama3", "longrope")


def rotary_tables(rope: Settings, head_dim: int, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, rotary_dim / 2]; angles are float32 products, as transformers computes them."""
    frequencies = inverse_frequencies(rope, head_dim).astype(np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    scale = np.float32(attention_factor(rope))
    return np.cos(angles) * scale, np.sin(angles) * scale


def rotate(vectors: Floats, cosines: Floats, sines: Floats) -> Floats:
    """vectors [heads, tokens, head_dim], tables [tokens, rotary_dim / 2]: pairs are (i, i + rotary_dim / 2).

    Features from rotary_dim on stay as they are.
    """
    half = cosines.shape[-1]
    first, second, rest = vectors[..., :half], vectors[..., half : 2 * half], vectors[..., 2 * half :]
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return np.concatenate([*turned, rest], axis=-1)


def inverse_frequencies(rope: Settings, head_dim: int) -> npt.NDArray[np.float64]:
    """[rotary_dim / 2] radians per position, after scaling; of a long rope those for short contexts."""
    kind = _kind(rope)
    width = int(head_dim * float(rope.get("partial_rotary_factor") or 1.0))
    plain = 1.0 / float(rope["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    if kind == "linear":
        return plain / float(rope["factor"])
    if kind == "longrope":
        factors = np.asarray(rope["short_factor"], dtype=np.float64)
        if factors.shape != plain.shape:
            raise UnsupportedModel(f"short_factor has {factors.size} values, there must be {plain.size}")
        return plain / factors
    return _llama3(plain, rope) if kind == "llama3" else plain


def original_context_length(rope: Settings) -> int | None:
    """Up to here a long rope turns by its short factors; None for every other kind."""
    if _kind(rope) != "longrope":
        return None
    if not rope.get("original_max_position_embeddings"):
        raise UnsupportedModel("rope scaling 'longrope' without original_max_position_embeddings")
    return int(rope["original_max_position_embeddings"])


def attention_factor(rope: Settings) -> float:
    """What cosines and sines are multiplied with. A long rope's settings say max_position_embeddings too."""
    original = original_context_length(rope)
    if original is None:
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    stretch = float(rope.get("factor") or rope["max_position_embeddings"] / original)
    return 1.0 if stretch <= 1.0 else math.sqrt(1.0 + math.log(stretch) / math.log(original))


def _kind(rope: Settings) -> str:
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    kind = "longrope" if kind == "su" else kind
    if kind not in KINDS:
        raise UnsupportedModel(
            f"rope scaling {kind!r} is not supported", hint=f"supported are {', '.join(KINDS)}"
        )
    return kind


def _llama3(plain: npt.NDArray[np.float64], rope: Settings) -> npt.NDArray[np.float64]:
    """Keep short wavelengths, divide long ones by `factor`, blend between the two limits."""
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    wavelength = 2 * math.pi / plain
    blend = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    return (1 - blend) * plain / factor + blend * plain
