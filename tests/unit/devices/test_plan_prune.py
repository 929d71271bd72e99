"""Narrower feed-forward parts: exactly the tensors that `edgeport prune --ffn` cuts, and no others."""

from __future__ import annotations

import pytest

from edgeport.devices.known_models import load_known
from edgeport.devices.plan_engines import CONVERTED, export_note
from edgeport.devices.plan_prune import can_prune, snap_for, widths, with_ffn_width
from edgeport.export.families.table import FAMILIES
from edgeport.export.prune.snap import snap_for as exporter_snap


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


def test_experts_are_not_pruned() -> None:
    shape = load_known("mixtral-8x7b")
    assert not can_prune(shape) and len(widths(shape)) == 1


@pytest.mark.parametrize(
    ("format_name", "precision", "exported"),
    [("gguf", "int4", "gguf"), ("safetensors", "int4", "safetensors"), ("gguf", "q4_k_m", "gguf-q4_k_m")],
)
def test_widths_are_rounded_as_the_exporter_does(format_name: str, precision: str, exported: str) -> None:
    assert snap_for(format_name, precision) == exporter_snap([exported])[0]


def test_families_that_edgeport_converts_are_the_exporter_s() -> None:
    """The exporter's table names architectures, the plan model types."""
    for name in ("llama-3.1-8b", "qwen2.5-0.5b"):
        assert load_known(name).family in CONVERTED and export_note(load_known(name)) == ""
    assert len(CONVERTED) == len(FAMILIES)
    assert "does not export family 'gpt2'" in export_note(load_known("gpt2"))
