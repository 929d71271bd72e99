"""Fixtures every test may use: tiny random models, built offline by transformers in under three seconds.

`tiny_llama_dir` and `tiny_qwen2_dir` are model folders as transformers saves them. Treat them as read-only: they live
for the whole test session. Weights are drawn with a standard deviation of 0.2, large enough that logits differ from
token to token and from a damaged copy.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "EDGEPORT_CACHE" not in os.environ:  # workers and child processes inherit it; the user's own is left alone
    os.environ["EDGEPORT_CACHE"] = tempfile.mkdtemp(prefix="edgeport-test-cache-")
    atexit.register(shutil.rmtree, os.environ["EDGEPORT_CACHE"], ignore_errors=True)

VOCAB_SIZE = 512
WEIGHT_STD = 0.2
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER_TEXT = [
    "def fibonacci(n: int) -> int:\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "class Shape:\n    def area(self) -> float:\n        raise NotImplementedError\n",
    "for index, value in enumerate(values):\n    if value is None:\n        continue\n    total += value * 12345\n",
    "import os\nimport sys\n\nwith open(path, encoding='utf-8') as stream:\n    text = stream.read()\n",
    "The quick brown fox jumps over the lazy dog. Größe, naïve café, 你好, 😀 and 3.14159.\n",
]
# The pattern of GPT-2 (llama.cpp calls it gpt-2) and the one of Qwen2 (llama.cpp: qwen2).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def pytest_configure() -> None:
    """Workers that run side by side get a processor each: an engine's threads would wait for each other across workers."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[int(worker.removeprefix("gw")) % len(processors)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together, and so do all that use the exported artifacts: each worker would export them again."""
    for item in items:
        shared = "exports" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("artifacts" if shared else str(item.path)))


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama: two layers, grouped-query attention, tied embeddings, byte-level BPE with GPT-2's pre-tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    config = LlamaConfig(**_shape(), tie_word_embeddings=True, rope_theta=10000.0)
    _save_model(LlamaForCausalLM, config, directory, seed=1)
    _save_tokenizer(directory, GPT2_PATTERN, bos=True)
    return directory


@pytest.fixture(scope="session")
def tiny_qwen2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2: two layers, biases on q, k and v, an lm_head of its own, Qwen's pre-tokenizer with NFC."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    directory = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    config = Qwen2Config(**_shape(), tie_word_embeddings=False, rope_theta=1000000.0)
    _save_model(Qwen2ForCausalLM, config, directory, seed=2)
    _save_tokenizer(directory, QWEN2_PATTERN, bos=False)
    return directory


@pytest.fixture(scope="session")
def family_twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """family_twin("gemma3") or family_twin("phi3", dtype="float32", tokenizer="llama3"): a folder of tests/families/twins.py."""
    path = Path(__file__).resolve().parent / "families" / "twins.py"
    spec = importlib.util.spec_from_file_location("family_twins", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "write_twin"):
        spec.loader.exec_module(module)
    made: dict[tuple[Any, ...], Path] = {}

    def write(family: str, **settings: Any) -> Path:
        key = (family, *sorted(settings.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("family") / family
            module.write_twin(family, made[key], **settings)
        return made[key]

    return write


def _shape() -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _save_model(model_class: Any, config: Any, directory: Path, *, seed: int) -> None:
    """Random bf16 weights; norms near one and biases not zero, so that a writer that drops one is seen."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * WEIGHT_STD
            parameter.copy_(1 + noise if "norm" in name else noise)
    model.to(torch.bfloat16).save_pretrained(directory)


def _save_tokenizer(directory: Path, pattern: str, *, bos: bool) -> None:
    """Byte-level BPE trained on a few lines, filled up to VOCAB_SIZE so that the vocabulary matches the embedding."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    if pattern == QWEN2_PATTERN:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOKENIZER_TEXT, trainer)
    missing = VOCAB_SIZE - tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken(f"<|unused{index}|>", special=True) for index in range(missing)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>" if bos else None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=256,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(directory)
