"""The numpy oracle against transformers' own forward pass, on plain and on packed weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import ArtifactError, UnsupportedModel
from edgeport.runtimes import reference
from edgeport.runtimes.reference import ReferenceSession, open_session
from edgeport.runtimes.safetensors_reader import SafetensorsReader
from edgeport.runtimes.session import SessionOptions

TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 512, 40)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def transformers_logits(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


def reference_logits(folder: Path) -> Any:
    session = open_session(folder, SessionOptions())
    try:
        return session.feed(TOKENS, all_logits=True)
    finally:
        session.close()


def with_config(source: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    config.update(changes)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_logits_equal_transformers(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    np.testing.assert_allclose(reference_logits(folder), transformers_logits(folder), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "rope", [LLAMA3, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}], ids=["llama3", "linear"]
)
def test_scaled_rotary_embeddings_equal_transformers(
    rope: dict[str, Any], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    folder = with_config(tiny_llama_dir, tmp_path / "scaled", rope_parameters=rope)
    ours = reference_logits(folder)
    np.testing.assert_allclose(ours, transformers_logits(folder), atol=1e-4, rtol=0)
    assert np.abs(ours - reference_logits(tiny_llama_dir)).max() > 0.1, "the scaling must matter in this test"


def test_the_old_spelling_of_rope_scaling_means_the_same(tiny_llama_dir: Path, tmp_path: Path) -> None:
    new = with_config(tiny_llama_dir, tmp_path / "new", rope_parameters=LLAMA3)
    old_rope = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    old = with_config(
        tiny_llama_dir, tmp_path / "old", rope_parameters=None, rope_scaling=old_rope, rope_theta=500000.0
    )
    np.testing.assert_array_equal(reference_logits(new), reference_logits(old))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Independent packing by Python integers: code + 2**(bits-1), low bits first."""
    per_word = 32 // bits
    words = np.zeros((codes.shape[0], codes.shape[1] // per_word), np.uint32)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            stored = int(codes[row, column]) + 2 ** (bits - 1)
            words[row, column // per_word] |= np.uint32(stored << (bits * (column % per_word)))
    return words.view(np.int32)


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_code_times_scale(bits: int, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    generator = np.random.default_rng(bits)
    codes = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (6, 64))
    scales = generator.normal(size=(6, 2)).astype(np.float16)
    tensors = {
        "x.weight_packed": pack(codes, bits),
        "x.weight_scale": scales,
        "x.weight_shape": np.array([6, 64]),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    expected = codes.reshape(6, 2, 32) * scales.astype(np.float32)[:, :, None]
    np.testing.assert_array_equal(SafetensorsReader(tmp_path).read("x.weight"), expected.reshape(6, 64))


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    values = torch.randn(3, 5, dtype=torch.bfloat16)
    save_file({"x.weight": values}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(SafetensorsReader(tmp_path).read("x.weight"), values.float().numpy())


def test_a_cut_file_is_named(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = with_config(tiny_llama_dir, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors is no usable .* cut short"):
        open_session(folder, SessionOptions())


def test_a_missing_tensor_is_named(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = with_config(tiny_llama_dir, tmp_path / "short", num_hidden_layers=3)
    with pytest.raises(ArtifactError, match="model.layers.2.input_layernorm.weight"):
        open_session(folder, SessionOptions())


@pytest.mark.parametrize(
    "change", [{"model_type": "gpt2"}, {"hidden_act": "gelu"}, {"rope_parameters": {"rope_type": "yarn"}}]
)
def test_what_it_cannot_run_is_refused(change: dict[str, Any], tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = with_config(tiny_llama_dir, tmp_path / "other", **change)
    with pytest.raises(UnsupportedModel):
        open_session(folder, SessionOptions())


@pytest.mark.parametrize("model", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_weights_read_again_for_each_layer_give_the_same_logits(
    model: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue(model)
    monkeypatch.setattr(reference, "_TABLE_PIECE_ROWS", 100)  # 512 rows of vocabulary in six pieces
    session = ReferenceSession(folder, SessionOptions(), keep_weights=False)
    streamed = session.feed(TOKENS, all_logits=True)
    session.close()
    np.testing.assert_allclose(streamed, reference_logits(folder), atol=1e-5, rtol=0)
