"""Tensor lists against transformers: a tiny model of each family is saved, and its file's names and shapes compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeport.devices.config_shape import ARCHITECTURES, NOT_COVERED, shape_from_config
from edgeport.devices.shape import ModelShape
from edgeport.errors import UsageError

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 32}
LATENT: dict[str, Any] = SIZES | {
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 2,
    "num_experts_per_tok": 2, "moe_intermediate_size": 48, "first_k_dense_replace": 1,
}  # fmt: skip
FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}
# model_type, what is passed to transformers' configuration class, and the kind of network
TINY: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", GROUPED, "CausalLM"),
    "llama with biases": ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}, "CausalLM"),
    "llama tied, wide heads": ("llama", WIDE | {"tie_word_embeddings": True}, "CausalLM"),
    "mistral": ("mistral", GROUPED, "CausalLM"),
    "qwen2": ("qwen2", GROUPED, "CausalLM"),
    "qwen3": ("qwen3", WIDE, "CausalLM"),
    "granite": ("granite", GROUPED | {"attention_bias": True}, "CausalLM"),
    "olmo2": ("olmo2", GROUPED, "CausalLM"),
    "phi3": ("phi3", GROUPED, "CausalLM"),
    "phi": ("phi", GROUPED, "CausalLM"),
    "phi with norms": ("phi", SIZES | {"qk_layernorm": True}, "CausalLM"),
    "gemma": ("gemma", WIDE, "CausalLM"),
    "gemma2": ("gemma2", WIDE, "CausalLM"),
    "gemma3": ("gemma3_text", WIDE, "CausalLM"),
    "gpt2": (
        "gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 256}, "CausalLM",
    ),
    "opt": ("opt", SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64}, "CausalLM"),
    "opt 350m": (
        "opt", SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False}, "CausalLM",
    ),
    "gpt_neox": ("gpt_neox", SIZES, "CausalLM"),
    "falcon 7b": ("falcon", FALCON, "CausalLM"),
    "falcon 40b": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}, "CausalLM"),
    "falcon rw": ("falcon", FALCON | {"multi_query": False, "parallel_attn": False, "bias": True}, "CausalLM"),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4}, "CausalLM"),
    "qwen3_moe": (
        "qwen3_moe",
        WIDE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "mlp_only_layers": [1]},
        "CausalLM",
    ),
    "olmoe": ("olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}, "CausalLM"),
    "gpt_oss": ("gpt_oss", WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2}, "CausalLM"),
    "deepseek_v2": ("deepseek_v2", LATENT, "CausalLM"),
    "deepseek_v2 lite": ("deepseek_v2", LATENT | {"q_lora_rank": None}, "CausalLM"),
    "deepseek_v3": ("deepseek_v3", LATENT, "CausalLM"),
    "lfm2": ("lfm2", GROUPED | {"full_attn_idxs": [1, 3]}, "CausalLM"),
    "lfm2 as given": ("lfm2", GROUPED | {"layer_types": ["conv"] * 3 + ["full_attention"], "conv_bias": True,
                                         "block_auto_adjust_ff_dim": False}, "CausalLM"),
    "bert": ("bert", SIZES, "MaskedLM"),
    "bert embedder": ("bert", SIZES, ""),
    "bert classifier": ("bert", SIZES | {"num_labels": 5}, "SequenceClassification"),
    "roberta": ("roberta", SIZES | {"type_vocab_size": 1}, "MaskedLM"),
    "xlm-roberta": ("xlm-roberta", SIZES, ""),
    "xlm-roberta reranker": ("xlm-roberta", SIZES | {"num_labels": 1}, "SequenceClassification"),
    "distilbert": (
        "distilbert",
        {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "vocab_size": 128, "max_position_embeddings": 256},
        "MaskedLM",
    ),
    "distilbert classifier": (
        "distilbert",
        {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "vocab_size": 128, "max_position_embeddings": 256},
        "SequenceClassification",
    ),
}  # fmt: skip


def tensors_of(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes, experts one by one."""
    found: dict[str, tuple[int, ...]] = {}
    for tensor in shape.tensors:
        names = [tensor.name]
        if "*" in tensor.name:
            names = [tensor.name.replace("*", str(expert)) for expert in range(tensor.count)]
        for name in names:
            assert name not in found, f"{name} is listed twice"
            found[name] = tensor.shape
    return found


def saved(
    directory: Path, model_type: str, settings: dict[str, Any], kind: str
) -> dict[str, tuple[int, ...]]:
    """What transformers writes for a model with these settings: the names a published file has."""
    import transformers
    from safetensors import safe_open

    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = getattr(transformers, f"AutoModelFor{kind}" if kind else "AutoModel").from_config(config)
    model.save_pretrained(directory)
    with safe_open(str(directory / "model.safetensors"), "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("case", TINY)
def test_every_tensor_has_the_name_and_shape_transformers_saves(case: str, tmp_path: Path) -> None:
    expected = saved(tmp_path, *TINY[case])
    config = json.loads((tmp_path / "config.json").read_text())
    shape = shape_from_config(config, name=case)
    assert tensors_of(shape) == expected
    assert shape.parameters == sum(product(size) for size in expected.values())
    assert shape.layers == config.get("num_hidden_layers", 2)


def product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def test_every_architecture_is_compared_with_transformers_or_with_our_own_exporter() -> None:
    assert {model_type for model_type, _, _ in TINY.values()} | {"nemotron-nas"} == set(ARCHITECTURES)


def test_nemotron_nas_is_what_the_exporter_reads() -> None:
    from edgeport.export.families.nemotron_nas import read_spec

    blocks: list[dict[str, Any]] = [
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}},
        {"attention": {"n_heads_in_group": 4}, "ffn": {"intermediate_size": 96}},
    ]
    config = GROUPED | {
        "model_type": "nemotron-nas", "architectures": ["DeciLMForCausalLM"], "num_hidden_layers": 2, "block_configs": blocks,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    shape, spec = shape_from_config(config, name="puzzle"), read_spec(config)
    assert tensors_of(shape) == {item.name: item.shape for item in spec.tensors()}
    assert [cache.kv_heads for cache in shape.caches] == [2, 1]
    assert 2 * sum(cache.values_per_token for cache in shape.caches) == spec.kv_bytes_per_token()


WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral 0.1": ("mistral", GROUPED | {"sliding_window": 64}),
    "mistral 0.3": ("mistral", GROUPED | {"sliding_window": None}),
    "qwen2": (
        "qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
    ),
    "qwen2 without": (
        "qwen2", GROUPED | {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 3},
    ),
    "gemma2": ("gemma2", WIDE | {"sliding_window": 64}),
    "gemma3": ("gemma3_text", WIDE | {"sliding_window": 64, "num_hidden_layers": 7}),
    "gpt_oss": (
        "gpt_oss", WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    ),
    "phi3": ("phi3", GROUPED | {"sliding_window": 64}),
}  # fmt: skip


@pytest.mark.parametrize("case", WINDOWED)
@pytest.mark.parametrize("published", [True, False])
def test_windows_are_those_of_the_cache_transformers_makes(case: str, published: bool) -> None:
    """published: without the list of layer types that newer versions of transformers add to what they save."""
    import transformers

    model_type, settings = WINDOWED[case]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    cache = transformers.DynamicCache(config=config)
    expected = [layer.sliding_window if layer.is_sliding else None for layer in cache.layers]
    document = settings | {"model_type": model_type} if published else config.to_dict()
    shape = shape_from_config(document, name=case)
    assert [cache.window for cache in shape.caches] == expected


def test_latent_attention_keeps_one_vector_a_token() -> None:
    shape = shape_from_config(LATENT | {"model_type": "deepseek_v2"}, name="tiny")
    assert {cache.values_per_token for cache in shape.caches} == {16 + 8}


def test_convolution_layers_keep_a_state_and_encoders_nothing() -> None:
    document = GROUPED | {"model_type": "lfm2", "full_attn_idxs": [1]}
    first, second, *_ = shape_from_config(document, name="tiny").caches
    assert (first.values_per_token, first.state_bytes) == (0, 2 * 64 * 4)
    assert (second.values_per_token, second.state_bytes) == (2 * 2 * 16, 0)
    encoder = shape_from_config(SIZES | {"model_type": "bert"}, name="tiny")
    assert {(cache.values_per_token, cache.state_bytes) for cache in encoder.caches} == {(0, 0)}


def test_the_text_part_of_gemma3_leaves_out_what_the_publisher_left_out() -> None:
    """google/gemma-3-4b-it has 4,300,079,472 parameters, 416,866,032 of them in SigLIP and 1152 * 2561 in the projection."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    shape = shape_from_config({"model_type": "gemma3", "text_config": text}, name="gemma-3-4b")
    assert shape.family == "gemma3_text"
    assert shape.parameters == 4_300_079_472 - 416_866_032 - (1152 * 2560 + 1152)
    assert sum(cache.window is None for cache in shape.caches) == 5


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no heads": ({"num_attention_heads": None}, ["num_attention_heads is missing"]),
    "hidden size not divisible": ({"hidden_size": 66}, ["66", "not a multiple of 4 heads"]),
    "key-value heads": ({"num_key_value_heads": 3}, ["4 heads are not a multiple of 3"]),
    "negative": ({"num_hidden_layers": -1}, ["num_hidden_layers is -1"]),
    "zero": ({"vocab_size": 0}, ["vocab_size is 0"]),
    "absurd": ({"vocab_size": 10**15, "num_hidden_layers": 10**9}, ["vocab_size is", "num_hidden_layers is"]),
    "text": ({"hidden_size": "64"}, ["hidden_size is '64'"]),
    "true": ({"hidden_size": True}, ["hidden_size is True"]),
    "fraction": ({"hidden_size": 64.5}, ["hidden_size is 64.5"]),
    "flag": ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings is 'yes'"]),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, ["not a language model"]),
    "everything at once": (
        {"num_attention_heads": None, "vocab_size": 0, "intermediate_size": -5},
        ["num_attention_heads is missing", "vocab_size is 0", "intermediate_size is -5"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_impossible_configuration_is_refused_with_every_reason(case: str) -> None:
    change, expected = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        shape_from_config(GROUPED | {"model_type": "llama"} | change, name="broken")
    for text in expected:
        assert text in caught.value.message


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_an_empty_configuration_of_every_family_is_refused(model_type: str) -> None:
    with pytest.raises(UsageError, match="is missing"):
        shape_from_config({"model_type": model_type}, name="empty")


def test_layer_types_must_be_known_and_one_per_layer() -> None:
    gemma = WIDE | {"model_type": "gemma2", "sliding_window": 64}
    with pytest.raises(UsageError, match="linear_attention.*sliding_attention"):
        shape_from_config(gemma | {"layer_types": ["linear_attention"] * 4}, name="broken")
    with pytest.raises(UsageError, match="3 entries for 4 layers"):
        shape_from_config(gemma | {"layer_types": ["full_attention"] * 3}, name="broken")


@pytest.mark.parametrize("model_type", NOT_COVERED)
def test_hybrid_models_are_refused_by_name(model_type: str) -> None:
    with pytest.raises(UsageError, match="does not describe") as caught:
        shape_from_config({"model_type": model_type}, name="hybrid")
    assert NOT_COVERED[model_type] in caught.value.message


def test_an_unknown_family_is_told_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match="did you mean 'qwen2'") as caught:
        shape_from_config({"model_type": "qwen22"}, name="new")
    assert all(model_type in (caught.value.hint or "") for model_type in ARCHITECTURES)
    for nothing in ({}, {"model_type": 3}, {"model_type": ""}):
        with pytest.raises(UsageError, match="has no model_type"):
            shape_from_config(nothing, name="new")


def test_auto_map_is_ignored() -> None:
    document = GROUPED | {"model_type": "llama", "auto_map": {"AutoConfig": "os.system--evil.py"}}
    assert shape_from_config(document, name="x").tensors
