"""The file in llama.cpp against transformers on the dequantized weights: shapes, rotary embedding, biases, permutation.

llama.cpp runs in a child process: a failed assertion in it would end pytest.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats import gguf_tensors
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.read_gguf import dequantized_copy

EXACT = 1e-4
ROUNDED = 0.08  # llama.cpp rounds activations to 8 bits before each quantized product
TOKENS = [0, 300, 41, 77, 260, 501, 3, 90, 258, 17, 450, 333, 12, 86, 200, 111] * 3

ENGINE = """
import sys
import numpy as np
from llama_cpp import Llama
tokens = [int(item) for item in sys.argv[1].split(",")]
for path in sys.argv[2:]:
    engine = Llama(path, n_ctx=256, n_batch=64, logits_all=True, type_k=0, type_v=0, verbose=False, n_threads=1)
    engine.eval(tokens)
    np.save(path + ".npy", engine.scores[: len(tokens)])
    assert engine.create_completion("def ", max_tokens=4, temperature=0.0)["usage"]["completion_tokens"] > 0
"""

Pack = Callable[[Checkpoint, Path], Path]
MakeCheckpoint = Callable[[Path, str, Path], Checkpoint]


def engine_logits(*paths: Path) -> list[np.ndarray]:
    command = [sys.executable, "-c", ENGINE, ",".join(map(str, TOKENS)), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [np.load(f"{path}.npy") for path in paths]


def reference_logits(checkpoint: Checkpoint, model: Path) -> np.ndarray:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    weights = {name: torch.from_numpy(checkpoint.tensor(name).dequantize()) for name in checkpoint.names()}
    if checkpoint.spec.tied_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    network.load_state_dict(weights, strict=True)
    with torch.no_grad():
        return network(torch.tensor([TOKENS])).logits[0].numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["tiny_llama_dir", "tiny_qwen2_dir"])
@pytest.mark.parametrize("schemes", ["int4-g32 int8-g32 int8-g32"])
def test_logits_agree_with_transformers(name, schemes, request, export, tmp_path) -> None:
    model = request.getfixturevalue(name)
    written = export(model, schemes)
    expected = reference_logits(written.checkpoint, model)
    copy = tmp_path / "float.gguf"
    dequantized_copy(written.path, copy)
    exact, rounded = engine_logits(copy, written.path)
    assert relative_error(exact, expected) < EXACT
    assert relative_error(rounded, expected) < ROUNDED


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "linear-rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "wide-heads": ("Llama", {"head_dim": 32}),
    "qwen2-as-llama": ("Qwen2", {"rope_parameters": LLAMA3_ROPE}),
    "one-kv-head": ("Qwen2", {"num_key_value_heads": 1}),
}


def save_variant(name: str, tokenizer: Path, directory: Path) -> Path:
    import torch
    import transformers

    family, changes = VARIANTS[name]
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = getattr(transformers, f"{family}Config")(**{**shape, **changes})
    torch.manual_seed(7)
    network = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for label, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape) * 0.2
            parameter.copy_(1 + noise if "norm" in label else noise)
    network.save_pretrained(directory)
    for label in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / label, directory / label)
    return directory


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_agree_with_transformers(
    name: str, tiny_llama_dir: Path, checkpoint_of: MakeCheckpoint, pack: Pack, tmp_path: Path
) -> None:
    model = save_variant(name, tiny_llama_dir, tmp_path / "model")
    checkpoint = checkpoint_of(model, "f32", tmp_path / "checkpoint")
    path = pack(checkpoint, tmp_path / "gguf")
    [logits] = engine_logits(path)
    assert relative_error(logits, reference_logits(checkpoint, model)) < EXACT
    architecture = "qwen2" if name == "one-kv-head" else "llama"
    assert read_header(path).metadata["general.architecture"] == architecture


def test_a_wrong_rope_theta_is_seen(tiny_llama_dir: Path, export, pack: Pack, tmp_path: Path) -> None:
    checkpoint = export(tiny_llama_dir, "f32").checkpoint
    expected = reference_logits(checkpoint, tiny_llama_dir)
    rope = dataclasses.replace(checkpoint.spec.rope, theta=20000.0)
    wrong = Checkpoint(checkpoint.directory, dataclasses.replace(checkpoint.spec, rope=rope))
    [logits] = engine_logits(pack(wrong, tmp_path / "gguf"))
    assert relative_error(logits, expected) > 1e-2


@pytest.mark.parametrize("part", ["q_proj", "k_proj"])
def test_a_missing_permutation_is_seen(
    part: str, tiny_llama_dir: Path, export, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = export(tiny_llama_dir, "f32").checkpoint
    expected = reference_logits(checkpoint, tiny_llama_dir)
    heads = {"q_proj": checkpoint.spec.heads, "k_proj": checkpoint.spec.kv_heads}[part]
    original = gguf_tensors.interleaved_rows

    def forgets(count: int, head_dim: int) -> np.ndarray:
        return np.arange(count * head_dim) if count == heads else original(count, head_dim)

    monkeypatch.setattr(gguf_tensors, "interleaved_rows", forgets)
    [logits] = engine_logits(pack(checkpoint, tmp_path / "gguf"))
    assert relative_error(logits, expected) > 1e-2
