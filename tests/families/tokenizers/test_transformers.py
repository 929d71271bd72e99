"""The packed safetensors folder: transformers' own AutoTokenizer cuts text as tokenizer.json does, whatever class the source names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import Tokenizers
from corpus import corpus
from tokenizers import Tokenizer

from edgeport.export.formats.tokenizer_files import copy_tokenizer

MODEL_TYPES = {
    "gpt2": "gpt2",
    "llama3": "llama",
    "qwen2": "qwen2",
    "smollm": "llama",
    "olmo2": "olmo2",
    "granite": "granite",
    "opt": "opt",
    "roberta": "roberta",
    "llama2-spm": "llama",
    "mistral-spm": "mistral",
    "gemma-spm": "gemma2",
    "phi3-spm": "phi3",
    "wordpiece": "bert",
    "unigram": "xlm-roberta",
    "t5": "t5",
    "phi4-mini": "phi3",
    "tekken": "mistral",
    "llama2-resaved": "llama",
}
REBUILT = ("smollm", "granite", "llama2-spm")


def lines_that_differ(folder: Path) -> list[str]:
    from transformers import AutoTokenizer

    opened: Any = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    lines = corpus([token["content"] for token in added])
    expected = [item.ids for item in reference.encode_batch(lines)]
    found = opened(lines)["input_ids"]
    return [line for line, want, got in zip(lines, expected, found, strict=True) if want != got]


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_transformers_reads_the_copy_as_it_is(kind: str, tokenizer_of: Tokenizers, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[kind]}))
    copy_tokenizer(tokenizer_of(kind), tmp_path, for_transformers=True)
    assert lines_that_differ(tmp_path) == []


@pytest.mark.parametrize("kind", REBUILT)
def test_without_the_change_it_would_not(kind: str, tokenizer_of: Tokenizers, tmp_path: Path) -> None:
    """When a version of transformers reads these too, the change in copy_tokenizer can go."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[kind]}))
    copy_tokenizer(tokenizer_of(kind), tmp_path)
    assert lines_that_differ(tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "gemma-spm", "llama2-resaved"])
def test_a_class_that_means_the_same_is_kept(kind: str, tokenizer_of: Tokenizers, tmp_path: Path) -> None:
    copy_tokenizer(tokenizer_of(kind), tmp_path, for_transformers=True)
    name = "tokenizer_config.json"
    assert (tmp_path / name).read_bytes() == (tokenizer_of(kind) / name).read_bytes()
