"""Flags of added tokens: what llama.cpp knows by a model's name is given that name, everything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_added_tokens import (
    MASK_PRE,
    Stripping,
    marked_name,
    partitioned,
    refuse_untranslatable,
    stripping,
)

PHI3 = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|end|>"]


def tokens(*contents: str, **flags: tuple[str, ...]) -> dict[str, Any]:
    """added_tokens with `flag=("content", ...)` set."""
    entries = [
        {"id": at, "content": text, "special": True, **{flag: text in names for flag, names in flags.items()}}
        for at, text in enumerate(contents)
    ]
    return {"added_tokens": entries, "model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": None}


@pytest.mark.parametrize(
    ("document", "pre", "expected"),
    [
        (tokens("<s>"), "gpt-2", Stripping()),
        (tokens("<s>", "<mask>", lstrip=("<mask>",)), "gpt-2", Stripping(pre=MASK_PRE)),
        (tokens("[SEP]", "[MASK]", lstrip=("[MASK]",)), "gpt-2", Stripping(model_name="modern-bert")),
        (tokens(*PHI3, rstrip=("</s>", "<|end|>")), "default", Stripping(model_name="phi-3")),
    ],
)
def test_the_flags_of_known_models_are_their_name(
    document: dict[str, Any], pre: str, expected: Stripping
) -> None:
    assert stripping(document, pre) == expected


@pytest.mark.parametrize(
    ("document", "pre", "match"),
    [
        (tokens("<s>", "<mask>", lstrip=("<mask>",)), "qwen2", "'<mask>' has lstrip"),
        (tokens("<s>", "<mask>", lstrip=("<mask>", "<s>")), "gpt-2", "'<s>' has lstrip"),
        (tokens("<mask>", lstrip=("<mask>",), rstrip=("<mask>",)), "gpt-2", "has lstrip.*has rstrip"),
        (tokens(*PHI3, rstrip=("<|end|>",)), "default", "has rstrip"),
        (tokens(*PHI3[:2], "<|end|>", rstrip=("<|end|>",)), "default", "'<\\|end\\|>' has rstrip"),
    ],
)
def test_other_flags_are_refused(document: dict[str, Any], pre: str, match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        stripping(document, pre)


@pytest.mark.parametrize(
    ("name", "mark", "expected"),
    [
        ("tiny", "", "tiny"),
        ("", "", ""),
        ("tiny", "phi-3", "tiny phi-3"),
        ("Phi-3-mini", "phi-3", "Phi-3-mini"),
        ("phi3-mini", "phi-3", "phi3-mini"),
        ("Phi-3-small", "", "phi_3-small"),
        ("my-phi3", "modern-bert", "my-phi_3 modern-bert"),
        ("Modern-BERT-like", "", "modern_bert-like"),
    ],
)
def test_a_name_says_what_the_tokenizer_does_and_nothing_else(name: str, mark: str, expected: str) -> None:
    assert marked_name(name, mark) == expected


NORMALIZED = ("</s>",)
PREPEND = {"type": "Prepend", "prepend": "\u2581"}


@pytest.mark.parametrize(
    ("normalizer", "token", "refused"),
    [
        (None, "</s>", False),
        ({"type": "NFC"}, "</s>", False),
        (PREPEND, "</s>", True),
        ({"type": "Lowercase"}, "</s>", True),
        ({"type": "Lowercase"}, "<1>", False),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, "</s>", False),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, "</ s>", True),
    ],
)
def test_a_token_that_is_looked_for_in_normalized_text(normalizer: Any, token: str, refused: bool) -> None:
    document = tokens(token, normalized=(token,), lstrip=(), rstrip=(), single_word=())
    document["normalizer"] = normalizer
    if not refused:
        refuse_untranslatable(document)
        return
    with pytest.raises(UnsupportedModel, match="looked for in normalized text"):
        refuse_untranslatable(document)


def test_a_token_that_must_stand_alone_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'x' has single_word"):
        refuse_untranslatable(tokens("x", single_word=("x",)))


def test_what_no_other_text_can_form() -> None:
    assert partitioned(tokens("</s>", "\u2581\u2581", "\n"), "\u2581") == {"</s>", "\n"}
