"""Unigram descriptions that llama.cpp would read otherwise are refused, each for its reason. Parity itself: tests/families/tokenizers."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest
from gguf import TokenType

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_unigram import precompiled_charsmap, unigram_scores, unknown_piece
from edgeport.export.formats.gguf_vocabulary import SPACE

# one rule in a double array of 256 units: a tab becomes a space ("\t" is label 9 below the root's base 1)
_UNITS = [0] * 256
_UNITS[0] = 1 << 10
_UNITS[1 ^ 9] = 9 | 1 << 8 | ((1 ^ 9) ^ 2) << 10
_UNITS[2] = 1 << 31
CHARSMAP = (1024).to_bytes(4, "little") + b"".join(unit.to_bytes(4, "little") for unit in _UNITS) + b" \0"


def document() -> dict[str, Any]:
    vocab = [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], [SPACE, -2.0], [SPACE + "a", -1.5], ["b", -3.25]]
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    return {
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE},
            ],
        },
        "pre_tokenizer": space,
        "post_processor": None,
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False},
    }


TYPES = [TokenType.CONTROL, TokenType.CONTROL, TokenType.UNKNOWN, *[TokenType.NORMAL] * 3, TokenType.UNUSED]
TOKENS = ["<s>", "</s>", "<unk>", SPACE, SPACE + "a", "b", "[PAD6]"]


def test_the_map_and_the_scores_are_taken_over() -> None:
    assert precompiled_charsmap(document()) == CHARSMAP
    assert unknown_piece(document()) == "<unk>"
    assert unigram_scores(document(), TOKENS, TYPES) == (0.0, 0.0, 0.0, -2.0, -1.5, -3.25, -1e30)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d["model"].update(byte_fallback=True), "falls back to bytes"),
        (lambda d: d["model"].update(unk_id=None), "no unknown token"),
    ],
)
def test_an_unknown_token_there_must_be(change: Callable[[dict[str, Any]], None], match: str) -> None:
    changed = copy.deepcopy(document())
    change(changed)
    with pytest.raises(UnsupportedModel, match=match):
        unknown_piece(changed)


def lowercase(d: dict[str, Any]) -> None:
    d["normalizer"]["normalizers"].insert(1, {"type": "Lowercase"})


def without_strip(d: dict[str, Any]) -> None:
    del d["normalizer"]["normalizers"][1]


def words_first(d: dict[str, Any]) -> None:
    """The map of this document leaves line ends, which end a word then."""
    d["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, d["pre_tokenizer"]],
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(normalizer=None), "normalizer is none; supported is Precompiled"),
        (lambda d: d.update(normalizer={"type": "NFKC"}), "normalizer is NFKC"),
        (lowercase, "normalizer step .*Lowercase.* has no counterpart"),
        (without_strip, "Metaspace alone, without Strip"),
        (
            lambda d: d["pre_tokenizer"].update(prepend_scheme="first"),
            "prepend_scheme 'first', supported is 'always'",
        ),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is Whitespace"),
        (words_first, "normalizer leaves whitespace"),
    ],
)
def test_what_llama_cpp_does_not_do_is_refused(change: Callable[[dict[str, Any]], None], match: str) -> None:
    changed = copy.deepcopy(document())
    change(changed)
    with pytest.raises(UnsupportedModel, match=match):
        precompiled_charsmap(changed)


@pytest.mark.parametrize(
    ("index", "entry", "match"),
    [
        (3, ["x", -2.0], "no token '\u2581'"),
        (4, ["a" + SPACE + "b", -1.5], "reaches over a space"),
        (0, ["<s>", -9.0], "least likely token is a special one"),
    ],
)
def test_a_vocabulary_with_another_best_path_is_refused(index: int, entry: list[Any], match: str) -> None:
    changed, tokens = copy.deepcopy(document()), list(TOKENS)
    changed["model"]["vocab"][index] = entry
    tokens[index] = entry[0]
    with pytest.raises(UnsupportedModel, match=match):
        unigram_scores(changed, tokens, TYPES)
