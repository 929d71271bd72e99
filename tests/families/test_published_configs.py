"""config.json as published, in the spelling of old and of new transformers: shapes, windows, rope, scales, parameter counts."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest

from edgeport.devices.known_models import load_known
from edgeport.errors import UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec, RopeSpec
from edgeport.export.families.table import read_spec

Config = dict[str, Any]
FACTORS = [1.0 + 0.05 * pair for pair in range(48)]
LONG_FACTORS = [1.0 + 1.3 * pair for pair in range(48)]
LONG_ROPE = {"type": "longrope", "short_factor": FACTORS, "long_factor": LONG_FACTORS}
LONG_SCALE = math.sqrt(1 + math.log(32) / math.log(4096))

GEMMA_2_2B: Config = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
    "intermediate_size": 9216, "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "sliding_window": 4096, "torch_dtype": "float32", "vocab_size": 256000,
}  # fmt: skip
GEMMA_3_1B: Config = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False,
    "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
}  # fmt: skip
QWEN3_06B: Config = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MISTRAL_V01: Config = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
MISTRAL_V03 = MISTRAL_V01 | {"rope_theta": 1000000.0, "sliding_window": None, "vocab_size": 32768}
PHI_3_4K: Config = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu", "hidden_size": 3072,
    "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": None,
    "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False, "vocab_size": 32064,
}  # fmt: skip
PHI_3_128K = PHI_3_4K | {
    "max_position_embeddings": 131072,
    "rope_scaling": LONG_ROPE,
    "sliding_window": 262144,
}
PHI_4_MINI = PHI_3_128K | {
    "num_attention_heads": 24, "num_key_value_heads": 8, "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
    "vocab_size": 200064,
}  # fmt: skip
GRANITE_31_2B: Config = {
    "architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": False,
    "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 8192, "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": False,
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": True,
    "vocab_size": 49155,
}  # fmt: skip
OLMO_2_1B: Config = {
    "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352,
}  # fmt: skip
PUBLISHED: dict[str, Config] = {
    "gemma-2-2b": GEMMA_2_2B, "gemma-3-1b": GEMMA_3_1B, "qwen3-0.6b": QWEN3_06B, "mistral-7b-v0.1": MISTRAL_V01,
    "mistral-7b-v0.3": MISTRAL_V03, "phi-3-mini-4k": PHI_3_4K, "phi-3-mini-128k": PHI_3_128K,
    "phi-4-mini": PHI_4_MINI, "granite-3.1-2b": GRANITE_31_2B, "olmo-2-1b": OLMO_2_1B,
}  # fmt: skip
COUNTED = ("gemma-2-2b", "gemma-3-1b", "qwen3-0.6b", "mistral-7b-v0.1", "mistral-7b-v0.3", "phi-3-mini-4k")
"""Their published files say how many parameters they hold (devices/models)."""


def transformers_config(config: Config) -> Any:
    from transformers import AutoConfig

    left_out = ("model_type", "torch_dtype")
    settings = copy.deepcopy(
        {key: value for key, value in config.items() if key not in left_out}
    )  # it writes in them
    return AutoConfig.for_model(config["model_type"], **settings)


def plain(spec: DecoderSpec) -> DecoderSpec:
    """Without the document it was read from."""
    return dataclasses.replace(spec, config={})


@pytest.mark.parametrize("name", COUNTED)
def test_the_published_number_of_parameters(name: str) -> None:
    assert read_spec(PUBLISHED[name]).parameters() == load_known(name).parameters


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COUNTED else name for name in PUBLISHED]
)
def test_transformers_number_of_parameters(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(transformers_config(PUBLISHED[name]))
    network.tie_weights()
    assert read_spec(PUBLISHED[name]).parameters() == sum(item.numel() for item in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_transformers_5_writes_of_a_config_reads_the_same(name: str) -> None:
    """Rope moves into rope_parameters, patterns become layer_types, defaults are left out or written down."""
    config = transformers_config(PUBLISHED[name])
    wanted = plain(read_spec(PUBLISHED[name]))
    for document in (config.to_dict(), config.to_diff_dict()):
        again = {**document, "architectures": PUBLISHED[name]["architectures"]}
        assert plain(read_spec(again)) == wanted


def windows(config: Config) -> list[int | None]:
    spec = read_spec(config)
    return [spec.window(layer) for layer in range(spec.layers)]


def test_windows() -> None:
    assert windows(GEMMA_2_2B) == [4096, None] * 13
    assert windows(GEMMA_3_1B) == ([512] * 5 + [None]) * 4 + [512] * 2
    assert windows(MISTRAL_V01) == [4096] * 32
    assert windows(PHI_3_4K) == [2047] * 32
    # As long as the context or longer, or switched off: none.
    for config in (MISTRAL_V03, PHI_3_128K, PHI_4_MINI, QWEN3_06B, OLMO_2_1B, GRANITE_31_2B):
        assert set(windows(config)) == {None}


def test_a_pattern_of_windows_in_three_spellings() -> None:
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 2
    without = {key: value for key, value in GEMMA_3_1B.items() if key != "sliding_window_pattern"}
    assert windows(without) == windows(without | {"layer_types": kinds}) == windows(GEMMA_3_1B)
    assert windows(without | {"sliding_window_pattern": 2})[:4] == [512, None, 512, None]


def test_rope_of_gemma_3_is_another_in_layers_that_slide() -> None:
    spec = read_spec(GEMMA_3_1B)
    assert spec.layer_rope(0) == RopeSpec(10000.0) and spec.layer_rope(5) == RopeSpec(1000000.0)
    scaled = read_spec(GEMMA_3_1B | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    assert scaled.layer_rope(0) == RopeSpec(10000.0)
    assert scaled.layer_rope(5) == RopeSpec(1000000.0, "linear", factor=8.0)


@pytest.mark.parametrize("name", ["longrope", "su"])
def test_long_rope_is_exported_for_its_short_context(name: str) -> None:
    spec = read_spec(PHI_3_128K | {"rope_scaling": LONG_ROPE | {"type": name}})
    assert spec.context_length == 4096 and spec.rope.kind == "longrope" and spec.rope.factor == 32
    assert spec.rope.short_factors == tuple(FACTORS) and spec.rope.long_factors == tuple(LONG_FACTORS)
    assert spec.rope.attention_factor == pytest.approx(LONG_SCALE)


def test_where_long_rope_says_its_original_context_twice_the_model_s_word_counts() -> None:
    """transformers: `self.original_max_position_embeddings` has priority (modeling_rope_utils, standardize_rope_params)."""
    rope = LONG_ROPE | {"original_max_position_embeddings": 2048}
    config = PHI_3_128K | {"rope_scaling": rope}
    spec = read_spec(config)
    assert spec.context_length == 4096
    found = transformers_config(config).rope_parameters["original_max_position_embeddings"]
    assert found == spec.rope.original_context_length


def test_phi_4_mini_turns_three_quarters_of_each_head() -> None:
    spec = read_spec(PHI_4_MINI)
    assert (spec.head_dim, spec.rope.rotary_dim, len(spec.rope.short_factors)) == (128, 96, 48)
    assert read_spec(PHI_3_128K).rope.rotary_dim is None


def test_scales_and_caps() -> None:
    gemma = read_spec(GEMMA_2_2B)
    assert gemma.embedding_scale == 48.0 and gemma.attention_scale == 1 / 16
    assert (gemma.block.attention_softcap, gemma.logit_softcap) == (50.0, 30.0)
    assert read_spec(GEMMA_2_2B | {"query_pre_attn_scalar": 144}).attention_scale == pytest.approx(1 / 12)
    assert read_spec(GEMMA_3_1B).logit_softcap is None
    granite = read_spec(GRANITE_31_2B)
    assert (granite.embedding_scale, granite.attention_scale) == (12.0, 0.015625)
    assert (granite.block.residual_scale, granite.logit_scale) == (0.22, 0.125)


def test_what_gemma_2_leaves_unsaid_is_transformers_default() -> None:
    said = {
        "architectures",
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "vocab_size",
    }
    short = {key: value for key, value in GEMMA_2_2B.items() if key in said}
    assert plain(read_spec(short)) == plain(read_spec(GEMMA_2_2B))
    assert read_spec(short | {"final_logit_softcapping": None}).logit_softcap is None, "null is not silence"


REFUSED: dict[str, tuple[Config, str]] = {
    "both directions": (GEMMA_3_1B | {"use_bidirectional_attention": True}, "attends in both directions"),
    "an unknown kind of layer": (
        GEMMA_2_2B | {"layer_types": ["chunked_attention"] * 26},
        "of kinds chunked_attention",
    ),
    "too few kinds of layers": (
        GEMMA_2_2B | {"layer_types": ["full_attention"] * 25},
        "layer_types has 25 entries for 26 layers",
    ),
    "a window of nothing": (MISTRAL_V01 | {"sliding_window": 0}, "sliding_window is 0"),
    "a window in words": (MISTRAL_V01 | {"sliding_window": "4096"}, "sliding_window is '4096'"),
    "long rope without factors": (
        PHI_3_128K | {"rope_scaling": {"type": "longrope", "long_factor": LONG_FACTORS}},
        "'longrope' lacks short_factor",
    ),
    "long rope with too few factors": (
        PHI_3_128K | {"rope_scaling": LONG_ROPE | {"short_factor": FACTORS[:5]}},
        "short_factor has 5 values, there must be 48",
    ),
    "long rope with a factor of zero": (
        PHI_3_128K | {"rope_scaling": LONG_ROPE | {"long_factor": [0.0] * 48}},
        "long_factor has 48 values, there must be 48, each above 0",
    ),
    "long rope of no context": (
        {key: value for key, value in PHI_3_128K.items() if key != "original_max_position_embeddings"},
        "lacks original_max_position_embeddings",
    ),
    "yarn in Gemma 3": (GEMMA_3_1B | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
    "another activation": (OLMO_2_1B | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "half a rotation where transformers turns all": (
        GRANITE_31_2B | {"partial_rotary_factor": 0.5},
        "partial_rotary_factor is 0.5",
    ),
    "Gemma 3 with its eyes": (
        {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"},
        "Gemma3ForConditionalGeneration is not supported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(case: str) -> None:
    config, told = REFUSED[case]
    with pytest.raises(UnsupportedModel) as caught:
        read_spec(config)
    assert told in caught.value.message


def test_a_window_in_any_family_is_read_not_refused() -> None:
    config = QWEN3_06B | {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 20}
    assert windows(config) == [None] * 20 + [1024] * 8
