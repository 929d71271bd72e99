"""WordPiece descriptions that llama.cpp would read otherwise are refused. Parity itself: tests/families/tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
from gguf import TokenType

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_wordpiece import (
    BertNormalizer,
    bert_normalizer,
    refuse_bare_text,
    wordpiece_tokens,
)

TOKENS = ["[CLS]", "[UNK]", "play", "##ing", "[PAD4]", "extra"]
TYPES = [
    TokenType.CONTROL,
    TokenType.CONTROL,
    TokenType.NORMAL,
    TokenType.NORMAL,
    TokenType.UNUSED,
    TokenType.USER_DEFINED,
]


def document(**normalizer: Any) -> dict[str, Any]:
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            **normalizer,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"},
    }


def test_beginnings_are_marked_and_continuations_bare() -> None:
    spelled = wordpiece_tokens(document(), TOKENS, TYPES)
    assert spelled == ("[CLS]", "[UNK]", "\u2581play", "ing", "[PAD4]", "extra")


@pytest.mark.parametrize(
    ("flags", "lowercase", "strip_accents"),
    [
        ({"lowercase": True, "strip_accents": None}, True, True),
        ({"lowercase": False, "strip_accents": None}, False, False),
        ({"lowercase": True, "strip_accents": False}, True, False),
        ({"lowercase": False, "strip_accents": True}, False, True),
    ],
)
def test_accents_go_with_the_case_unless_told(
    flags: dict[str, Any], lowercase: bool, strip_accents: bool
) -> None:
    assert bert_normalizer(document(**flags)) == BertNormalizer(lowercase, strip_accents)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normalizer is Lowercase, supported is BertNormalizer"),
        ({"normalizer": None}, "normalizer is none"),
        (
            {"pre_tokenizer": {"type": "Whitespace"}},
            "pre_tokenizer is Whitespace, supported is BertPreTokenizer",
        ),
        ({"normalizer": {"type": "BertNormalizer", "clean_text": False}}, "clean_text false"),
        (
            {"normalizer": {"type": "BertNormalizer", "handle_chinese_chars": False}},
            "handle_chinese_chars false",
        ),
    ],
)
def test_another_normalizer_is_refused(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        bert_normalizer({**document(), **changed})


@pytest.mark.parametrize(
    ("at", "token", "match"),
    [
        (3, "##", "'##' would read as the beginning of a word"),
        (3, "##\u2581x", "would read as the beginning of a word"),
        (3, "##extra", "gives 'extra' to two token ids"),
        (1, "[unknown]", "unknown token '\\[UNK\\]' is no token"),
    ],
)
def test_a_vocabulary_that_reads_otherwise_is_refused(at: int, token: str, match: str) -> None:
    tokens = [*TOKENS[:at], token, *TOKENS[at + 1 :]]
    with pytest.raises(UnsupportedModel, match=match):
        wordpiece_tokens(document(), tokens, TYPES)


def test_another_continuation_is_refused() -> None:
    changed = document()
    changed["model"]["continuing_subword_prefix"] = "@@"
    with pytest.raises(UnsupportedModel, match="continues words with '@@'"):
        wordpiece_tokens(changed, TOKENS, TYPES)


@pytest.mark.parametrize(("before", "after"), [([], [2]), ([1], []), ([], [])])
def test_a_text_without_its_two_tokens_is_refused(before: list[int], after: list[int]) -> None:
    refuse_bare_text([1], [2])
    with pytest.raises(UnsupportedModel, match="llama.cpp always does"):
        refuse_bare_text(before, after)
