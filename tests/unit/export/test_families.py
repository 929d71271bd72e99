"""config.json to spec: rotary settings in every spelling, biases, and what is refused with its reason.

The published configurations of the other families are in tests/families/test_published_configs.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import RopeSpec
from edgeport.export.families.table import read_spec

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
SCALED = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3 = RopeSpec(5e5, "llama3", 32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("settings", "rope"),
    [
        ({}, RopeSpec(10000.0)),
        ({"rope_theta": 5e5}, RopeSpec(5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeSpec(5e5)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, RopeSpec(1e6)),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            RopeSpec(1e4, "linear", 2.0),
        ),
        ({"rope_theta": 5e5, "rope_scaling": SCALED}, LLAMA3),
        ({"rope_parameters": SCALED | {"rope_theta": 5e5}}, LLAMA3),
    ],
)
def test_rotary_settings_of_old_and_new_configs(settings: dict[str, Any], rope: RopeSpec) -> None:
    assert read_spec(LLAMA | settings).rope == rope


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "yarn": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "'yarn', supported are 'default', 'linear', 'llama3', 'longrope'",
    ),
    "dynamic": ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
    "partial": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "heads": ({"num_key_value_heads": 3}, "4 heads are not a multiple of 3"),
    "missing": ({"rms_norm_eps": None, "vocab_size": None}, "lacks vocab_size, rms_norm_eps"),
    "linear without factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "llama3 without factors": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    "longrope without factors": ({"rope_scaling": {"type": "longrope"}}, "lacks short_factor, long_factor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(case: str) -> None:
    changes, told = REFUSED[case]
    with pytest.raises(UnsupportedModel) as caught:
        read_spec(LLAMA | changes)
    assert told in caught.value.message


def test_all_reasons_at_once() -> None:
    with pytest.raises(UnsupportedModel, match=r"hidden_act is 'relu'.*rope scaling 'yarn'"):
        read_spec(LLAMA | {"hidden_act": "relu", "rope_scaling": {"type": "yarn"}})


def test_a_window_of_qwen2_counts_where_it_is_switched_on() -> None:
    """Without use_sliding_window the number says nothing. Containers that cannot draw it say so, not the reading."""
    off = read_spec(QWEN2 | {"use_sliding_window": False, "sliding_window": 64})
    assert off.windows == () and off.window(0) is None and off.is_llama
    on = read_spec(QWEN2 | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1})
    assert on.windows == (None, 64) and on.window(1) == 64 and not on.is_llama


def test_a_window_as_long_as_the_context_is_none() -> None:
    spec = read_spec(QWEN2 | {"use_sliding_window": True, "sliding_window": 256, "max_window_layers": 0})
    assert spec.windows == (256, 256) and spec.window(0) is None and spec.is_llama


def test_a_llama_with_long_rope_is_exported_for_its_short_context() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 64}
    spec = read_spec(LLAMA | {"rope_scaling": {"rope_type": "longrope", **factors}})
    assert spec.context_length == 64 and not spec.is_llama
    assert read_spec(LLAMA).context_length == 256


def test_defaults_of_absent_keys() -> None:
    spec = read_spec({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"})
    assert spec.kv_heads == spec.heads == 4 and spec.head_dim == 16
    assert not spec.tied_embeddings
    assert read_spec(LLAMA | {"head_dim": 32}).head_dim == 32


@pytest.mark.parametrize(
    ("config", "biases"),
    [
        (LLAMA, set()),
        (LLAMA | {"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (LLAMA | {"mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
        (QWEN2, {"q_proj", "k_proj", "v_proj"}),
    ],
)
def test_which_linears_have_a_bias(config: dict[str, Any], biases: set[str]) -> None:
    names = [item.name for item in read_spec(config).layer_tensors(0) if item.role == "bias"]
    assert {name.split(".")[-2] for name in names} == biases


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_names_and_shapes_are_those_of_transformers(model: str, request: pytest.FixtureRequest) -> None:
    from safetensors import safe_open

    directory: Path = request.getfixturevalue(model)
    spec = read_spec(json.loads((directory / "config.json").read_text()))
    with safe_open(directory / "model.safetensors", framework="pt") as stream:
        saved = {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118
    assert {item.name: item.shape for item in spec.tensors()} == saved
    assert spec.kv_bytes_per_token() == 2 * 2 * 2 * 16 * 2
