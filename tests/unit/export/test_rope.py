"""Rotary frequencies against transformers' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgeport.export.families.config import read_rope
from edgeport.export.formats.rope import inverse_frequencies, llama3_divisors

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama-3.1": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "llama-3.2": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def config_of(name: str, head_dim: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters=dict(SETTINGS[name]),
    )


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies(name: str, head_dim: int) -> None:
    problems: list[str] = []
    rope = read_rope({"rope_parameters": SETTINGS[name]}, problems)
    assert rope is not None and not problems
    module = LlamaRotaryEmbedding(config_of(name, head_dim))
    mine = inverse_frequencies(rope, head_dim)
    np.testing.assert_allclose(mine, module.inv_freq.numpy(), rtol=1e-6)
    if SETTINGS[name]["rope_type"] != "default":
        theirs, attention_factor = ROPE_INIT_FUNCTIONS[SETTINGS[name]["rope_type"]](
            config_of(name, head_dim), "cpu"
        )
        assert attention_factor == 1.0
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-6)


def test_llama3_divisors_leave_short_waves_and_divide_long_ones() -> None:
    rope = read_rope({"rope_parameters": SETTINGS["llama-3.2"]}, [])
    assert rope is not None
    divisors = llama3_divisors(rope, 64)
    assert divisors[0] == 1.0 and divisors[-1] == 32.0
    assert (np.diff(divisors) >= 0).all() and ((divisors > 1) & (divisors < 32)).any()
