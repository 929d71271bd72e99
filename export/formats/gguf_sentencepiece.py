"""SentencePiece-type BPE (Llama 2, Mistral, Phi-3, Gemma) as llama.cpp's "llama" vocabulary: merge ranks become token scores.

llama.cpp joins any two neighbours whose joined text is a token, best score first; tokenizer.json lists the allowed
joins. Both are the same when the list is closed (every way to split a token into two tokens is a merge) and goes token by
token (what forms a token stands together). That is how transformers converts a SentencePiece model, and it is checked.
Tokens that no text can form, because the text is cut out as an added token before, may be listed as they like.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gguf import TokenType

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_vocabulary import SPACE

_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
# Gemma's: after _REPLACE no text holds what it splits at
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "invert": False}


def is_sentencepiece(document: Mapping[str, Any]) -> bool:
    return bool(document["model"].get("byte_fallback"))


def space_prefix(document: Mapping[str, Any]) -> bool:
    """Whether a space goes before each text. Raises UnsupportedModel for whitespace rules llama.cpp does not have."""
    normalizer, pre_tokenizer = document.get("normalizer"), document.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    if pre_tokenizer is None or _splits_at_nothing(pre_tokenizer):
        if steps == [_PREPEND, _REPLACE]:
            return True
        if steps == [_REPLACE]:
            return False
    elif normalizer is None and pre_tokenizer.get("type") == "Metaspace":
        never = pre_tokenizer.get("prepend_scheme") == "never" and not pre_tokenizer.get("split", True)
        if never and pre_tokenizer.get("replacement") == SPACE:
            return False
    raise UnsupportedModel(
        f"llama.cpp has no whitespace rule for normalizer {normalizer} with pre_tokenizer {pre_tokenizer}",
        hint="supported are Prepend + Replace and Replace alone as normalizer, and Metaspace with prepend_scheme "
        "'never' and split false; transformers 5 rewrites the first on saving, so take the model's original tokenizer.json",
    )


def _splits_at_nothing(pre_tokenizer: Mapping[str, Any]) -> bool:
    return {key: value for key, value in pre_tokenizer.items() if key != "behavior"} == _SPLIT


def sentencepiece_scores(
    tokens: Sequence[str],
    types: Sequence[TokenType],
    merges: Sequence[Sequence[str]],
    cut_out: Collection[str] = (),
) -> tuple[float, ...]:
    """Minus the first rank at which a token is formed. Raises UnsupportedModel when scores cannot say what merges do.

    cut_out: added tokens that are taken out of a text before any of it is joined.
    """
    rank = {(left, right): index for index, (left, right) in enumerate(merges)}
    first: dict[str, int] = {}
    for index, (left, right) in enumerate(merges):
        first.setdefault(left + right, index)
    known = set(tokens)
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in known]
    if missing:
        raise UnsupportedModel(
            f"a byte_fallback vocabulary needs all 256 byte tokens, {missing[0]} is missing"
        )
    for token in tokens:
        if token not in cut_out:
            _check_closed(token, known, rank)
    _check_order([left + right for left, right in merges if left + right not in cut_out], first)
    never = len(merges)
    return tuple(
        -float(first.get(token, never if kind is TokenType.NORMAL else 0))
        for token, kind in zip(tokens, types, strict=True)
    )


def _check_closed(token: str, known: set[str], rank: Mapping[tuple[str, str], int]) -> None:
    for cut in range(1, len(token)):
        pair = (token[:cut], token[cut:])
        if pair[0] in known and pair[1] in known and pair not in rank:
            raise UnsupportedModel(
                f"llama.cpp would join {pair[0]!r} and {pair[1]!r} to {token!r}, which is no merge of this tokenizer.json",
                hint="byte_fallback vocabularies are supported when converted from SentencePiece, with every split a merge",
            )


def _check_order(formed: Sequence[str], first: Mapping[str, int]) -> None:
    """A token has one score for all its merges, so they must not be mixed with another token's.

    Runs of one character may be mixed among themselves, as Gemma's spaces are, which all have the same score: whatever the
    order, a run grows from its left end, one character at a time, until no longer token exists.
    """
    latest = latest_of_words = -1
    for token in formed:
        at = first[token]
        if at < (latest_of_words if len(set(token)) == 1 else latest):
            raise UnsupportedModel(
                f"the merges that form {token!r} are mixed with those of other tokens: llama.cpp has one score per token",
                hint="byte_fallback vocabularies are supported when converted from SentencePiece",
            )
        latest = max(latest, at)
        if len(set(token)) > 1:
            latest_of_words = max(latest_of_words, at)
