"""The ONNX and the safetensors container against transformers' own forward pass over the dequantized weights.

Prefill of 64 tokens, then 32 decode steps, every logit compared in exact mode; the greedy tokens must be the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.onnx import open_session
from edgeport.runtimes.session import SessionOptions

PREFILL, DECODE = 64, 32
TOLERANCE = 1e-4  # the allowed 1e-3 would hide a wrong epsilon; seen are 1e-6
GROUPS = {"linear": "int4-g64", "embedding": "int8-g64", "head": "int8-g64"}
MIXED = {
    "linear": "int4-g32",
    "embedding": "f16",
    "head": "int4-g64",
    "overrides": {
        "*.0.self_attn.k_proj.weight": "int8-g32",
        "*.1.self_attn.v_proj.weight": "bf16",
        "*.down_proj.weight": "int8-g64",
        "*.1.mlp.gate_proj.weight": "f32",
    },
}
INT2_EVERYWHERE = {
    "linear": "int2-g64",
    "embedding": "int2-g32",
    "head": "int2-g32",
    "overrides": {"*.o_proj.weight": "int4-g32", "*.1.self_attn.v_proj.weight": "int8-g32"},
}
G128 = {"linear": "int4-g128", "embedding": "int8-g128", "head": "int8-g128"}
CASES = [
    *[
        (model, recipe)
        for model in ("tiny_llama", "tiny_qwen2")
        for recipe in ("int4", "int8", "bf16", "f16")
    ],
    ("tiny_llama", "mixed"),
    ("tiny_qwen2", "mixed"),
    ("tiny_qwen2", "g64"),
    ("tiny_llama", "int2 everywhere"),
    ("tiny_qwen2", "int2 everywhere"),
    ("llama-3.2-1b", "int4"),
    ("llama-3.2-1b", "g128"),
    ("qwen2.5-0.5b", "int4"),
    ("smollm2-135m", "bf16"),
    ("untied llama with biases", "int4"),
    ("odd rows", "int4"),
]


@dataclass(frozen=True, slots=True)
class Packed:
    checkpoint: Checkpoint
    onnx: Path
    safetensors: Path


def recipe_of(name: str) -> Recipe:
    documents: dict[str, dict[str, Any]] = {
        "mixed": MIXED,
        "g64": GROUPS,
        "g128": G128,
        "int2 everywhere": INT2_EVERYWHERE,
    }
    return parse(documents[name], default_name=name) if name in documents else load_recipe(name)


def save_llama(directory: Path, tokenizer_from: Path, **changes: Any) -> Path:
    """A Llama with biases or unusual sizes, random weights, and a borrowed tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **{**shape, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256, **changes}
    )
    generator = torch.Generator().manual_seed(5)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(1 + noise if "norm" in name else noise)
    model.to(torch.bfloat16).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tokenizer_from / name).read_bytes())
    return directory


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """Tiny matrices: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model_dir(
    request: pytest.FixtureRequest, tiny_twin: Callable[[str], Path], tiny_llama_dir: Path, tmp_path: Path
) -> Path:
    name = request.param
    if name == "untied llama with biases":
        return save_llama(
            tmp_path / "m", tiny_llama_dir, attention_bias=True, mlp_bias=True, tie_word_embeddings=False
        )
    if name == "odd rows":
        # 48 and 80 are no multiples of 32: those tensors stay in float16.
        sizes = {
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
        }
        return save_llama(tmp_path / "m", tiny_llama_dir, **sizes)
    return request.getfixturevalue(f"{name}_dir") if name.startswith("tiny") else tiny_twin(name)


def pack(model: Path, recipe: Recipe, folder: Path) -> Packed:
    source = open_source(str(model))
    for name in ("checkpoint", "onnx", "safetensors"):
        (folder / name).mkdir(parents=True)
    quantize(source, replace(recipe, solver="rtn"), folder / "checkpoint", threads=2, progress=NO_PROGRESS)
    checkpoint = Checkpoint(folder / "checkpoint", source.spec)
    for name in ("onnx", "safetensors"):
        get_format(name).write(checkpoint, folder / name, WriteOptions("tiny", 128, NO_PROGRESS))
    return Packed(checkpoint, folder / "onnx" / "model.onnx", folder / "safetensors")


def dequantized_model(model: Path, checkpoint: Checkpoint) -> Any:
    reference = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    weights = {
        name: torch.from_numpy(checkpoint.tensor(name).dequantize().copy()) for name in checkpoint.names()
    }
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    reference.tie_weights()
    return reference.eval()


def transformers_run(model: Any, prompt: list[int]) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Logits [PREFILL + DECODE, vocab_size], the last DECODE of them after feeding greedy tokens one by one."""
    rows, tokens = [], []
    with torch.no_grad():
        result = model(torch.tensor([prompt]), use_cache=True)
        rows.append(result.logits[0])
        for _ in range(DECODE):
            tokens.append(int(rows[-1][-1].argmax()))
            result = model(
                torch.tensor([[tokens[-1]]]), past_key_values=result.past_key_values, use_cache=True
            )
            rows.append(result.logits[0])
    return torch.cat(rows).float().numpy(), tokens


def onnx_run(path: Path, prompt: list[int]) -> tuple[npt.NDArray[np.float32], list[int]]:
    session = open_session(path, SessionOptions(threads=1, context_length=PREFILL + DECODE + 1, exact=True))
    try:
        rows, tokens = [session.feed(prompt, all_logits=True)], []
        for _ in range(DECODE):
            tokens.append(int(rows[-1][-1].argmax()))
            rows.append(session.feed([tokens[-1]]))
        return np.concatenate(rows), tokens
    finally:
        session.close()


def relative_error(got: npt.NDArray[np.float32], want: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize(("model_dir", "recipe"), CASES, indirect=["model_dir"])
def test_logits_and_greedy_tokens_are_those_of_the_dequantized_model(
    model_dir: Path, recipe: str, tmp_path: Path
) -> None:
    packed = pack(model_dir, recipe_of(recipe), tmp_path / "packed")
    vocab_size = packed.checkpoint.spec.vocab_size
    prompt = np.random.default_rng(11).integers(0, vocab_size, PREFILL).tolist()
    want, tokens = transformers_run(dequantized_model(model_dir, packed.checkpoint), prompt)
    got, onnx_tokens = onnx_run(packed.onnx, prompt)
    assert relative_error(got, want) < TOLERANCE
    assert onnx_tokens == tokens
    stored = AutoModelForCausalLM.from_pretrained(packed.safetensors, dtype=torch.float32).eval()
    got, stored_tokens = transformers_run(stored, prompt)
    assert relative_error(got, want) < TOLERANCE
    assert stored_tokens == tokens


def test_the_comparison_can_fail(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """One code of one tensor, one step up: the logits leave the tolerance."""
    packed = pack(tiny_llama_dir, load_recipe("int4"), tmp_path / "packed")
    prompt = list(range(3, 3 + PREFILL))
    reference = dequantized_model(tiny_llama_dir, packed.checkpoint)
    want, _ = transformers_run(reference, prompt)
    with torch.no_grad():
        reference.model.layers[0].mlp.down_proj.weight[0, 0] += 0.03
    changed, _ = transformers_run(reference, prompt)
    assert relative_error(changed, want) > TOLERANCE


def test_onnx_folder_is_what_onnxruntime_genai_expects(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    packed = pack(tiny_qwen2_dir, load_recipe("int4"), tmp_path / "packed")
    config = json.loads((packed.onnx.parent / "genai_config.json").read_text())
    assert config["model"]["type"] == "qwen2" and config["model"]["vocab_size"] == 512
    assert config["model"]["eos_token_id"] == 2
    assert config["model"]["context_length"] == 256
    assert config["search"]["max_length"] == 128, (
        "the KV cache is allocated for it: the planned context, not the model's"
    )
    decoder = config["model"]["decoder"]
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"], decoder["head_size"]) == (
        4,
        2,
        16,
    )


def test_a_tied_head_is_stored_once(tiny_llama_dir: Path, tmp_path: Path) -> None:
    packed = pack(tiny_llama_dir, load_recipe("int8"), tmp_path / "packed")
    payload = sum(packed.checkpoint.tensor(name).payload.nbytes for name in packed.checkpoint.names())
    written = (packed.onnx.parent / "model.onnx.data").stat().st_size
    assert written < payload * 1.2
    head = packed.checkpoint.tensor("model.embed_tokens.weight").payload.nbytes
    assert written < payload + head / 2
