"""Every family's ONNX graph: the logits and greedy tokens of transformers, past the window; and what a forgotten part does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx_twins import (
    TOLERANCE,
    PackedTwin,
    network_of,
    onnx_run,
    pack_twin,
    relative_error,
    transformers_run,
    write_onnx,
)

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.verify.container import weight_digests

TWINS = (
    "llama", "llama3", "llama-biases", "mistral", "mistral-v0.3", "qwen2", "qwen2-window", "qwen3", "gemma2", "gemma2-27b",
    "gemma3", "phi3", "phi3-4k", "phi4-mini", "granite", "olmo2",
)  # fmt: skip
CASES = [
    *[(twin, "f32") for twin in TWINS],
    *[(twin, "int4") for twin in ("mistral", "qwen3", "gemma2", "gemma3", "phi4-mini", "granite", "olmo2")],
    ("gemma3", "mixed"),
    ("phi3", "mixed"),
]
FORBIDDEN = 1e-3
"""What the exporter allows at most; a fault must go beyond."""
Packer = Callable[..., PackedTwin]


def check(twin: PackedTwin) -> None:
    prompt = twin.prompt()
    expected, tokens = transformers_run(network_of(twin), prompt)
    for pieces in (1, 2):
        found, chosen = onnx_run(twin.folder, prompt, pieces=pieces)
        assert relative_error(found, expected) < TOLERANCE, pieces
        assert chosen == tokens, pieces


@pytest.mark.parametrize(("family", "recipe"), CASES)
def test_logits_and_greedy_tokens_are_transformers(family: str, recipe: str, packed: Packer) -> None:
    check(packed(family, recipe))


@pytest.mark.parametrize(("family", "recipe"), CASES)
def test_the_weights_read_back(family: str, recipe: str, packed: Packer) -> None:
    twin = packed(family, recipe)
    found = weight_digests("onnx", str(twin.folder / "model.onnx"))
    assert weights_id(found) == twin.checkpoint.weights_id


def test_part_of_a_head_turns_inside_the_attention(
    family_twin: Callable[[str], Path], edited: Callable[..., Path], tmp_path: Path
) -> None:
    """16 of 32 features, as 96 of 128 in Phi-4-mini; 24 are turned before the attention."""
    model = family_twin("phi4-mini")
    rope = dict(json.loads((model / "config.json").read_text())["rope_parameters"])
    factors = {name: rope[name][:8] for name in ("short_factor", "long_factor")}
    changes = {
        "rope_parameters": {**rope, **factors, "partial_rotary_factor": 0.5},
        "partial_rotary_factor": 0.5,
    }
    twin = pack_twin(edited(model, config=changes), "f32", tmp_path / "packed")
    assert twin.checkpoint.spec.rope.rotary_dim == 16
    assert "RotaryEmbedding" not in operators(twin.folder)
    check(twin)


def test_heads_that_attention_cannot_turn_are_turned_before_it(tmp_path: Path, tiny_llama_dir: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        vocab_size=512,
        max_position_embeddings=256,
    )
    model = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tiny_llama_dir / name).read_bytes())
    twin = pack_twin(model, "f32", tmp_path / "packed")
    assert operators(twin.folder).count("RotaryEmbedding") == 4
    check(twin)


def in_block(**changes: Any) -> Callable[[DecoderSpec], DecoderSpec]:
    return lambda spec: dataclasses.replace(spec, block=dataclasses.replace(spec.block, **changes))


def in_rope(**changes: Any) -> Callable[[DecoderSpec], DecoderSpec]:
    return lambda spec: dataclasses.replace(spec, rope=dataclasses.replace(spec.rope, **changes))


def in_spec(**changes: Any) -> Callable[[DecoderSpec], DecoderSpec]:
    return lambda spec: dataclasses.replace(spec, **changes)


def windows_wider_by(tokens: int) -> Callable[[DecoderSpec], DecoderSpec]:
    def widen(spec: DecoderSpec) -> DecoderSpec:
        windows = tuple(None if window is None else window + tokens for window in spec.windows)
        return dataclasses.replace(spec, windows=windows)

    return widen


FAULTS: dict[str, tuple[str, Callable[[DecoderSpec], DecoderSpec]]] = {
    "mistral's window one wider": ("mistral", windows_wider_by(1)),
    "mistral's window one narrower": ("mistral", windows_wider_by(-1)),
    "phi3's window one wider": ("phi3-4k", windows_wider_by(1)),
    "qwen2 without its window": ("qwen2-window", in_spec(windows=())),
    "qwen3 without norms over heads": ("qwen3", in_block(query_key_norm="")),
    "olmo2 without norms over all heads": ("olmo2", in_block(query_key_norm="")),
    "gemma2 without capped scores": ("gemma2", in_block(attention_softcap=None)),
    "gemma2 without capped logits": ("gemma2", in_spec(logit_softcap=None)),
    "gemma2 with norms before alone": ("gemma2", in_block(norm_placement="pre")),
    "gemma2 with another activation": ("gemma2", in_block(activation="silu")),
    "gemma2 with a small embedding": ("gemma2", in_spec(embedding_scale=1.0)),
    "gemma3 with one rotary table": ("gemma3", in_spec(window_rope=None)),
    "gemma3 without norms over heads": ("gemma3", in_block(query_key_norm="")),
    "granite with plain scores": ("granite", in_block(attention_scale=None)),
    "granite with whole residuals": ("granite", in_block(residual_scale=1.0)),
    "granite with a small embedding": ("granite", in_spec(embedding_scale=1.0)),
    "granite with plain logits": ("granite", in_spec(logit_scale=1.0)),
    "phi3 without the attention factor": ("phi3", in_rope(attention_factor=1.0)),
    "phi3 with plain frequencies": ("phi3", in_rope(short_factors=(1.0,) * 8)),
    "phi4-mini with fewer turning features": (
        "phi4-mini",
        in_rope(rotary_dim=16, short_factors=(1.0,) * 8),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_forgotten_part_is_seen(fault: str, packed: Packer, tmp_path: Path) -> None:
    family, change = FAULTS[fault]
    twin = packed(family)
    prompt = twin.prompt()
    expected, _ = transformers_run(network_of(twin), prompt)
    wrong = Checkpoint(twin.checkpoint.directory, change(twin.checkpoint.spec))
    found, _ = onnx_run(write_onnx(wrong, tmp_path / "onnx"), prompt)
    assert relative_error(found, expected) > FORBIDDEN


def test_the_other_form_of_gelu_is_seen(packed: Packer, tmp_path: Path) -> None:
    """Nearer than what the exporter allows, and still not what the model computes."""
    twin = packed("gemma2")
    prompt = twin.prompt()
    expected, _ = transformers_run(network_of(twin), prompt)
    wrong = Checkpoint(twin.checkpoint.directory, in_block(activation="gelu")(twin.checkpoint.spec))
    found, _ = onnx_run(write_onnx(wrong, tmp_path / "onnx"), prompt)
    assert relative_error(found, expected) > 5 * TOLERANCE


def test_a_norm_wired_to_anothers_weights_is_seen(packed: Packer, tmp_path: Path) -> None:
    twin = packed("gemma3")
    folder = shutil.copytree(twin.folder, tmp_path / "onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    nodes = {node.name: node for node in model.graph.node}
    query, key = (nodes[f"model.layers.1.self_attn.{name}_norm"] for name in "qk")
    key.input[1], query.input[1] = query.input[1], query.input[1]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"q_norm\.weight twice"):
        weight_digests("onnx", str(folder / "model.onnx"))


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node]


@pytest.mark.parametrize(
    ("family", "per_layer"),
    [
        ("gemma3", {"MatMulNBits": 5, "SkipSimplifiedLayerNormalization": 2, "FastGelu": 1, "Split": 1}),
        ("qwen3", {"MatMulNBits": 5, "SkipSimplifiedLayerNormalization": 2, "Split": 1}),
        ("granite", {"MatMulNBits": 5, "SkipSimplifiedLayerNormalization": 2, "Split": 0}),
        ("olmo2", {"MatMulNBits": 5, "SimplifiedLayerNormalization": 4, "Split": 1}),
        ("mistral", {"MatMulNBits": 5, "SkipSimplifiedLayerNormalization": 2, "Split": 0}),
    ],
)
def test_what_can_be_one_kernel_is_one(family: str, per_layer: dict[str, int], packed: Packer) -> None:
    twin = packed(family, "int4")
    found, layers = operators(twin.folder), twin.checkpoint.spec.layers
    outside = {"MatMulNBits": 1}  # the head
    for operator, count in per_layer.items():
        assert found.count(operator) == layers * count + outside.get(operator, 0), operator
    assert found.count("GroupQueryAttention") == layers
    assert not {"RotaryEmbedding", "LayerNormalization", "Softmax"} & set(found)
