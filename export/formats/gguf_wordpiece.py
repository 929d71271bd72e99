"""WordPiece vocabularies (BERT, MiniLM, BGE, E5) as llama.cpp's "bert" vocabulary.

llama.cpp marks where a word begins instead of where it goes on: `##ing` is stored as `ing`, `play` as `\u2581play`
(llm_tokenizer_wpm in src/llama-vocab.cpp, MIT). Text is cut as BertPreTokenizer does; lower case and accents are settings. The
tokens before and after a text are always there. What it does otherwise with some texts is listed in export/verify/token_limits.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_vocabulary import SPACE, refuse_repeated

_CONTINUATION = "##"


@dataclass(frozen=True, slots=True)
class BertNormalizer:
    """The two of BertNormalizer's choices that llama.cpp leaves open."""

    lowercase: bool
    strip_accents: bool


def bert_normalizer(document: Mapping[str, Any]) -> BertNormalizer:
    """Raises UnsupportedModel for another normalizer or pre-tokenizer than BERT's."""
    normalizer, pre_tokenizer = document.get("normalizer") or {}, document.get("pre_tokenizer") or {}
    for part, step, kind in (
        ("normalizer", normalizer, "BertNormalizer"),
        ("pre_tokenizer", pre_tokenizer, "BertPreTokenizer"),
    ):
        if step.get("type") != kind:
            raise _unsupported(f"{part} is {step.get('type', 'none')}, supported is {kind}")
    for flag in ("clean_text", "handle_chinese_chars"):
        if not normalizer.get(flag, True):
            raise _unsupported(f"normalizer has {flag} false, llama.cpp always does it")
    lowercase, accents = bool(normalizer.get("lowercase", True)), normalizer.get("strip_accents")
    return BertNormalizer(lowercase, lowercase if accents is None else bool(accents))


def wordpiece_tokens(
    document: Mapping[str, Any], tokens: Sequence[str], types: Sequence[TokenType]
) -> tuple[str, ...]:
    """llama.cpp's spelling of each token. Raises UnsupportedModel for a vocabulary it would read otherwise."""
    model = document["model"]
    if model.get("continuing_subword_prefix") != _CONTINUATION:
        raise _unsupported(
            f"model continues words with {model.get('continuing_subword_prefix')!r}, supported is '##'"
        )
    if model.get("unk_token") not in tokens:
        raise _unsupported(f"model's unknown token {model.get('unk_token')!r} is no token")
    spelled = [
        _spelling(token) if kind is TokenType.NORMAL else token
        for token, kind in zip(tokens, types, strict=True)
    ]
    refuse_repeated(spelled)
    return tuple(spelled)


def _spelling(token: str) -> str:
    if not token.startswith(_CONTINUATION):
        return SPACE + token
    rest = token.removeprefix(_CONTINUATION)
    if rest.startswith(SPACE) or not rest:
        raise _unsupported(f"token {token!r} would read as the beginning of a word")
    return rest


def refuse_bare_text(before: Sequence[int], after: Sequence[int]) -> None:
    """llama.cpp puts its two tokens around every text, whatever the file says."""
    if len(before) != 1 or len(after) != 1:
        raise _unsupported(
            "post-processor does not put one token before and one after a text, llama.cpp always does"
        )


def _unsupported(reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"llama.cpp cannot hold this WordPiece tokenizer.json: its {reason}",
        hint="export to the other formats, which carry tokenizer.json itself",
    )
