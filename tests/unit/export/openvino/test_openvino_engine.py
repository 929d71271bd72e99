"""The container in its own engines: logits against transformers, the fusions that make it fast, and openvino_genai."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.export.checkpoint import Checkpoint

Run = Callable[..., dict[str, Any]]
Reference = Callable[..., npt.NDArray[np.float32]]

PROMPT, STEPS = 64, 32


def _tokens(batch: int = 1, count: int = PROMPT + STEPS) -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(3, 500, (batch, count), dtype=np.int64)


def _relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture
def logits(run_engine: Run, tmp_path: Path) -> Callable[..., npt.NDArray[np.float32]]:
    def run(
        xml: Path, tokens: npt.NDArray[np.int64], *, exact: bool = True, split: int = PROMPT, **more: Any
    ) -> Any:
        run_engine(
            "logits", xml=xml, tokens=tokens, out=tmp_path / "out.npy", exact=exact, split=split, **more
        )
        return np.load(tmp_path / "out.npy")

    return run


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_prefill_and_decode_agree_with_transformers(
    family: str, request: pytest.FixtureRequest, logits: Reference, reference_logits: Reference
) -> None:
    name = {"llama": "int4", "qwen2": "qwen2"}[family]
    checkpoint: Checkpoint = request.getfixturevalue(f"{name}_checkpoint")
    xml: Path = request.getfixturevalue(f"{name}_container") / "openvino_model.xml"
    expected = reference_logits(checkpoint, input_ids=_tokens())
    assert _relative_error(logits(xml, _tokens()), expected) < 1e-4
    # bf16 and 8-bit activations and cache where the machine has them; a random model amplifies their rounding.
    assert _relative_error(logits(xml, _tokens(), exact=False), expected) < 0.15


@pytest.mark.parametrize(
    "schemes",
    [
        ("int8-g64", "int8-g64"),
        ("int2-g64", "int2-g32"),
        ("bf16", "bf16"),
        ("f16", "f16"),
        ("int4-g32", "f32"),
    ],
    ids=lambda pair: pair[0],
)
def test_other_schemes_agree_with_transformers(
    schemes: tuple[str, str],
    make_source: Callable[..., Path],
    make_checkpoint: Callable[..., Checkpoint],
    write_weights: Callable[..., Path],
    logits: Reference,
    reference_logits: Reference,
) -> None:
    source = make_source("llama", tied=schemes[0] != "bf16", attention_bias=True, mlp_bias=True)
    checkpoint = make_checkpoint(source, *schemes)
    found = logits(write_weights(checkpoint), _tokens(count=20), split=12)
    assert _relative_error(found, reference_logits(checkpoint, input_ids=_tokens(count=20))) < 1e-4


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 500.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rotary_positions(
    kind: str,
    make_source: Callable[..., Path],
    make_checkpoint: Callable[..., Checkpoint],
    write_weights: Callable[..., Path],
    logits: Reference,
    reference_logits: Reference,
) -> None:
    checkpoint = make_checkpoint(
        make_source("llama", tied=True, rope_parameters=ROPES[kind]), "int4-g32", "int8-g32"
    )
    assert checkpoint.spec.rope.kind == kind
    # Gaps between positions, so that long wavelengths turn visibly.
    positions = np.cumsum(np.random.default_rng(1).integers(1, 40, (1, 48)), axis=1, dtype=np.int64)
    tokens = _tokens(count=48)
    expected = reference_logits(checkpoint, input_ids=tokens, position_ids=positions)
    xml = write_weights(checkpoint)
    assert _relative_error(logits(xml, tokens, split=40, positions=positions), expected) < 1e-4
    # The test can fail: without the scaling the same model says something else.
    assert _relative_error(logits(xml, tokens, split=40), expected) > 1e-2


def test_left_padding_and_reordered_rows(
    int4_container: Path, int4_checkpoint: Checkpoint, logits: Reference, reference_logits: Reference
) -> None:
    tokens = _tokens(batch=2, count=24)
    mask = np.ones_like(tokens)
    mask[0, :5] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    xml = int4_container / "openvino_model.xml"
    found = logits(xml, tokens, split=16, mask=mask, positions=positions)
    expected = reference_logits(
        int4_checkpoint, input_ids=tokens, attention_mask=mask, position_ids=positions
    )
    assert _relative_error(found[0, 5:], expected[0, 5:]) < 1e-4
    assert _relative_error(found[1], expected[1]) < 1e-4
    # beam_idx: both rows continue row 1 of the cache.
    tokens[0] = tokens[1]
    tokens[0, :16] = _tokens(count=16)[0]
    found = logits(xml, tokens, split=16, beams=[1, 1])
    assert _relative_error(found[0, 16:], found[1, 16:]) < 1e-5
    assert _relative_error(found[1], expected[1]) < 1e-4


def test_plug_in_runs_fused_and_compressed(
    int4_container: Path, int4_checkpoint: Checkpoint, run_engine: Run
) -> None:
    nodes = run_engine("execution", xml=int4_container / "openvino_model.xml")["nodes"]
    counts = Counter(kind for kind, _, _ in nodes)
    layers = int4_checkpoint.spec.layers
    assert counts["RoPE"] == 2 * layers
    assert counts["RMS"] == 2 * layers + 1
    attentions = [kinds for kind, _, kinds in nodes if kind == "ScaledDotProductAttention"]
    # Nine inputs and no Concatenation of the cache: query, key, value, mask, beam_idx, past key and value.
    assert len(attentions) == layers and all(len(kinds) >= 7 for kinds in attentions)
    weights = {name: kinds[1] for kind, name, kinds in nodes if kind == "FullyConnected"}
    assert len(weights) == 7 * layers + 1
    assert weights.pop("model.embed_tokens") == "u8"
    assert set(weights.values()) == {"u4"}
    assert "u8" in {
        kinds[0] for kind, _, kinds in nodes if kind == "Gather"
    }  # the embedding table stays packed


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_one_shared_head_and_one_head_each(
    kv_heads: int,
    make_source: Callable[..., Path],
    make_checkpoint: Callable[..., Checkpoint],
    write_weights: Callable[..., Path],
    logits: Reference,
    reference_logits: Reference,
    run_engine: Run,
) -> None:
    """And a head_dim that is not hidden_size / heads."""
    source = make_source("llama", tied=True, num_key_value_heads=kv_heads, head_dim=32)
    checkpoint = make_checkpoint(source, "int4-g32", "int8-g32")
    xml = write_weights(checkpoint)
    tokens = _tokens(count=24)
    assert (
        _relative_error(logits(xml, tokens, split=20), reference_logits(checkpoint, input_ids=tokens)) < 1e-4
    )
    counts = Counter(kind for kind, _, _ in run_engine("execution", xml=xml)["nodes"])
    assert counts["ScaledDotProductAttention"] == checkpoint.spec.layers
    # The doubled angles and one for the shape of an empty cache; none for the cache itself.
    assert counts["Concatenation"] <= 2
    assert run_engine("paged", xml=xml)["operations"]["PagedAttentionExtension"] == checkpoint.spec.layers


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_half_precision_weights_stay_half(
    kind: str,
    tiny_llama_dir: Path,
    make_checkpoint: Callable[..., Checkpoint],
    write_weights: Callable[..., Path],
    run_engine: Run,
) -> None:
    nodes = run_engine("execution", xml=write_weights(make_checkpoint(tiny_llama_dir, kind, kind)))["nodes"]
    assert {kinds[1] for name, _, kinds in nodes if name == "FullyConnected"} == {kind}


def test_paged_attention_transformation(
    int4_container: Path, int4_checkpoint: Checkpoint, run_engine: Run
) -> None:
    found = run_engine("paged", xml=int4_container / "openvino_model.xml")
    assert found["operations"]["PagedAttentionExtension"] == int4_checkpoint.spec.layers
    for gone in ("ScaledDotProductAttention", "ReadValue", "Assign", "LessEqual"):
        assert gone not in found["operations"]
    assert "attention_mask" not in found["inputs"] and "beam_idx" not in found["inputs"]


@pytest.mark.parametrize("backend", [None, "PA", "SDPA"])
def test_genai_pipeline_generates_what_transformers_does(
    backend: str | None,
    qwen2_container: Path,
    qwen2_checkpoint: Checkpoint,
    reference_model: Callable[[Checkpoint], Any],
    run_engine: Run,
) -> None:
    import torch

    prompt = _tokens(count=20)
    with torch.no_grad():
        model = reference_model(qwen2_checkpoint)
        expected = model.generate(
            torch.from_numpy(prompt), max_new_tokens=12, min_new_tokens=12, do_sample=False
        )
    found = run_engine("generate", directory=qwen2_container, tokens=prompt, count=12, backend=backend)
    assert found["ids"] == expected[0, 20:].tolist()
    assert found["chat"] == "<|im_start|>user\ndef area<|im_end|>\n<|im_start|>assistant\n"
    assert found["text"]


def test_folder_has_what_consumers_read(int4_container: Path, int4_checkpoint: Checkpoint) -> None:
    names = {path.name for path in int4_container.iterdir()}
    stems = ("openvino_model", "openvino_tokenizer", "openvino_detokenizer")
    assert {f"{stem}.{suffix}" for stem in stems for suffix in ("xml", "bin")} <= names
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert json.loads((int4_container / "config.json").read_text())["model_type"] == "llama"
    assert int4_checkpoint.weights_id in (int4_container / "openvino_model.xml").read_text()
