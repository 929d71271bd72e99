"""What llama.cpp is known to cut otherwise: each difference is there, is spared by name, and is all there is of it.

A test that fails here after an update of llama.cpp may mean that a limit is gone: take it out of token_limits then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import Tokenizers, WriteVocabulary
from tokenizers import Tokenizer

from edgeport.export.verify.token_limits import comparable, token_limits
from edgeport.runtimes.isolation import run_isolated

DIFFERENT: tuple[tuple[str, str, str], ...] = (
    # kind, limit, a text that differs
    ("qwen2", "decomposed letters", "cafe\u0301"),
    ("unigram", "decomposed letters", "e\u0323\u0302\u0301"),
    ("unigram", "accents on replaced characters", "\ufb01\u0483"),
    ("gemma-spm", "written \u2581", "the \u2581\u2581 dog"),
    ("olmo2", "overlapping tokens", "|||PHONE_NUMBER|||EMAIL_ADDRESS|||"),
    ("roberta", "spaces beside special tokens", "the\u3000<mask>"),
    ("phi3-spm", "spaces beside special tokens", "<|user|>\u00a0the"),
    ("wordpiece", "rare whitespace", "the\x0cdog"),
    ("wordpiece", "long words", "the" * 40),
    ("wordpiece", "letters", "한국어 문장"),
    ("wordpiece", "written \u2581", "b\u2581the"),
    ("wordpiece", "letters", "नमस्ते दुनिया"),
)


def compared(directory: Path, path: Path, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    found = run_isolated(
        "edgeport.export.verify.token_parity:engine_vocabulary", {"path": str(path), "texts": texts}
    )
    return [item.ids for item in reference.encode_batch(texts)], found["tokens"]


def document_of(directory: Path) -> dict[str, Any]:
    loaded = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(("kind", "name", "text"), DIFFERENT)
def test_the_limit_is_real_and_spared(
    kind: str, name: str, text: str, tokenizer_of: Tokenizers, vocabulary_file: WriteVocabulary
) -> None:
    directory = tokenizer_of(kind)
    document = document_of(directory)
    limit = next(limit for limit in token_limits(document) if limit.name == name)
    assert limit.spare(text) != text
    texts = [text, *comparable(document, [f"the {text} dog"])]
    want, got = compared(directory, vocabulary_file(directory), texts)
    assert want[0] != got[0]
    assert want[1] == got[1]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("qwen2", "caf\u00e9 Stra\u00dfe \ud55c\uad6d\uc5b4"),
        ("roberta", "the <mask>\u3000 dog <s>\u00a0"),
        ("phi3-spm", "<|user|>\n the\u00a0dog<|end|> <s>\u00a0"),
        (
            "wordpiece",
            "Na\u00efve caf\u00e9, \u00c5ngstr\u00f6m! \u4f60\u597d \u043c\u0438\u0440 12-3 don't \U0001f600",
        ),
    ],
)
def test_no_more_is_spared_than_the_limit_is_about(kind: str, text: str, tokenizer_of: Tokenizers) -> None:
    changed = comparable(document_of(tokenizer_of(kind)), [text])[0]
    if kind in ("roberta", "phi3-spm"):
        assert len(changed) == len(text) and changed.split() == text.split()
    else:
        assert changed == text


def test_a_tokenizer_without_limits_is_compared_on_every_text(tokenizer_of: Tokenizers) -> None:
    for kind in ("gpt2", "llama3", "granite", "llama2-spm"):
        assert token_limits(document_of(tokenizer_of(kind))) == ()
