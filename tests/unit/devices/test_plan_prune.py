"""Narrower feed-forward parts: exactly the tensors that `edgeport prune --ffn` cuts, and no others."""

from __future__ import annotations

import pytest

from edgeport.devices.known_models import load_known
from edgeport.devices.plan_engines import CONVERTED, export_note
from edgeport.devices.plan_prune import can_prune, snap_for, widths, with_ffn_width
from edgeport.export.families.table import FAMILIES
from edgeport.export.prune.snap import snap_for as exporter_snap

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "Olmo2ForCausalLM": "olmo2",
    "DeciLMForCausalLM": "nemotron-nas",
}
"""As transformers' configuration classes name them (Nemotron-NAS: its own code)."""


def test_a_llama_loses_three_matrices_of_every_layer() -> None:
    shape = load_known("llama-3.1-8b")
    narrow = with_ffn_width(shape, 7168)
    assert shape.parameters - narrow.parameters == 32 * 3 * 4096 * (14336 - 7168)
    assert narrow.caches == shape.caches and narrow.intermediate_size == 7168
    assert with_ffn_width(shape, shape.intermediate_size) is shape


def test_biases_follow_and_attention_stays() -> None:
    shape = load_known("gpt2")
    narrow = with_ffn_width(shape, 1536)
    assert shape.parameters - narrow.parameters == 12 * (2 * 768 * 1536 + 1536)
    attention = [tensor for tensor in narrow.tensors if "attn" in tensor.name]
    assert attention == [tensor for tensor in shape.tensors if "attn" in tensor.name]


@pytest.mark.parametrize("snap", [32, 128, 256])
def test_widths_go_down_in_whole_blocks_to_half(snap: int) -> None:
    found = widths(load_known("qwen2.5-0.5b"), snap=snap)
    assert found[0] == 4864 and found[-1] >= 2432
    assert list(found) == sorted(set(found), reverse=True)
    assert all(width % snap == 0 for width in found[1:])


@pytest.mark.parametrize(
    "name",
    ["mixtral-8x7b", "gemma-2-2b", "gemma-3-1b", "qwen3-0.6b", "phi-3-mini-4k", "mistral-7b-v0.1", "gpt2"],
)
def test_what_edgeport_prune_refuses_is_not_advised(name: str) -> None:
    shape = load_known(name)
    assert not can_prune(shape) and len(widths(shape)) == 1


@pytest.mark.parametrize("name", ["llama-3.1-8b", "smollm2-135m", "mistral-7b-v0.3", "qwen2.5-0.5b"])
def test_llamas_layers_are_pruned_whatever_the_family_is_called(name: str) -> None:
    assert can_prune(load_known(name))


@pytest.mark.parametrize(
    ("format_name", "precision", "exported"),
    [("gguf", "int4", "gguf"), ("safetensors", "int4", "safetensors"), ("gguf", "q4_k_m", "gguf-q4_k_m")],
)
def test_widths_are_rounded_as_the_exporter_does(format_name: str, precision: str, exported: str) -> None:
    assert snap_for(format_name, precision) == exporter_snap([exported])[0]


def test_families_that_edgeport_converts_are_the_exporter_s() -> None:
    """The exporter's table names architectures, the plan model types."""
    for name in (
        "llama-3.1-8b",
        "qwen2.5-0.5b",
        "mistral-7b-v0.1",
        "gemma-2-2b",
        "gemma-3-1b",
        "phi-3-mini-4k",
        "qwen3-0.6b",
    ):
        assert load_known(name).family in CONVERTED and export_note(load_known(name)) == ""
    assert set(MODEL_TYPES) == set(FAMILIES)
    assert set(CONVERTED) == {*MODEL_TYPES.values(), "gemma3"}
    assert "does not export family 'gpt2'" in export_note(load_known("gpt2"))
    assert "does not export family 'mixtral'" in export_note(load_known("mixtral-8x7b"))
