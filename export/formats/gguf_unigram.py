"""Unigram vocabularies (T5, XLM-RoBERTa, multilingual E5) as llama.cpp's "t5" vocabulary: log probabilities and a character map.

llama.cpp normalizes by the precompiled map, makes every run of spaces one `\u2581` before the next word, and looks for the best
path through the whole text. tokenizer.json cuts words apart first and looks word by word: the same, as long as spaces are the
only whitespace left, no token reaches over a `\u2581`, and unknown characters are worth the same. Each of these is checked here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gguf import TokenType

from edgeport.errors import UnsupportedModel
from edgeport.export.formats.gguf_pretokenizer import pre_tokenizer_steps
from edgeport.export.formats.gguf_vocabulary import SPACE
from edgeport.export.verify.token_limits import surviving_whitespace

_FILLER_SCORE = -1e30  # a filler's text must never win against the tokens of its letters
_COMMON_WHITESPACE = "\t\n\r\u00a0\u2003\u2028\u3000"
_COLLAPSE = ({"Regex": " {2,}"}, (" ", SPACE))


def unknown_piece(document: Mapping[str, Any]) -> str:
    """Raises UnsupportedModel for a vocabulary without one, and for one that falls back to bytes."""
    model = document["model"]
    if model.get("byte_fallback"):
        raise _unsupported(
            "model falls back to bytes: llama.cpp makes one unknown token of what no token covers"
        )
    if model.get("unk_id") is None:
        raise _unsupported("model has no unknown token")
    return str(model["vocab"][model["unk_id"]][0])


def precompiled_charsmap(document: Mapping[str, Any]) -> bytes:
    """The normalizer's map, after checking that nothing else is done to a text. Raises UnsupportedModel."""
    normalizer = document.get("normalizer")
    steps = _normalizer_steps(normalizer)
    if not steps or steps[0].get("type") != "Precompiled":
        kinds = " + ".join(str(step.get("type")) for step in steps) or "none"
        raise _unsupported(
            f"normalizer is {kinds}; supported is Precompiled, with Strip and a Replace of spaces after it"
        )
    strips_end, collapses = _after_the_map(steps[1:])
    _check_words(document, strips_end and collapses)
    return base64.b64decode(steps[0]["precompiled_charsmap"])


def unigram_scores(
    document: Mapping[str, Any], tokens: Sequence[str], types: Sequence[TokenType]
) -> tuple[float, ...]:
    """Log probability by id. Raises UnsupportedModel where a path through the whole text could differ from one per word."""
    scores = [_FILLER_SCORE if kind is TokenType.UNUSED else 0.0 for kind in types]
    for index, (_, score) in enumerate(document["model"]["vocab"]):
        scores[index] = float(score)
    normal = [index for index, kind in enumerate(types) if kind is TokenType.NORMAL]
    if SPACE not in tokens:
        raise _unsupported(f"model has no token {SPACE!r}: unknown words would melt into one")
    reaching = next((tokens[index] for index in normal if SPACE in tokens[index].lstrip(SPACE)), None)
    if reaching is not None:
        raise _unsupported(f"token {reaching!r} reaches over a space, which only llama.cpp would use")
    inexact = next(
        (score for _, score in document["model"]["vocab"] if float(np.float32(score)) != float(score)), None
    )
    if inexact is not None:
        raise _unsupported(
            f"log probability {inexact} needs more than 32 bits: paths of the same worth would be chosen otherwise"
        )
    # what an unknown character costs is counted from the least likely token: here of all, there of the normal ones
    least = min(float(score) for _, score in document["model"]["vocab"])
    if normal and np.float32(least) != np.float32(min(scores[index] for index in normal)):
        raise _unsupported(
            "model's least likely token is a special one, so unknown characters would cost another amount"
        )
    return tuple(scores)


def _normalizer_steps(normalizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if normalizer is None:
        return []
    if normalizer.get("type") == "Sequence":
        return [step for inner in normalizer["normalizers"] for step in _normalizer_steps(inner)]
    return [normalizer]


def _after_the_map(steps: Sequence[Mapping[str, Any]]) -> tuple[bool, bool]:
    """Whether spaces at the end go, and whether runs of spaces become one."""
    strips_end = collapses = False
    for step in steps:
        if step.get("type") == "Strip":
            strips_end = strips_end or bool(step.get("strip_right"))
        elif (
            step.get("type") == "Replace"
            and step["pattern"] == _COLLAPSE[0]
            and step["content"] in _COLLAPSE[1]
        ):
            collapses = True
        else:
            raise _unsupported(f"normalizer step {dict(step)} has no counterpart")
    return strips_end, collapses


def _check_words(document: Mapping[str, Any], spaces_are_single: bool) -> None:
    """Words begin with a `\u2581` each, and nothing else is left of whitespace."""
    steps = pre_tokenizer_steps(document.get("pre_tokenizer"))
    kinds = [step.get("type") for step in steps]
    shown = " + ".join(str(kind) for kind in kinds) or "none"
    if kinds not in (["WhitespaceSplit", "Metaspace"], ["Metaspace"]):
        raise _unsupported(
            f"pre_tokenizer is {shown}; supported is Metaspace, alone or after WhitespaceSplit"
        )
    space = steps[-1]
    scheme = space.get("prepend_scheme", "always" if space.get("add_prefix_space") else "never")
    if space.get("replacement") != SPACE or scheme != "always":
        raise _unsupported(f"pre_tokenizer Metaspace has prepend_scheme {scheme!r}, supported is 'always'")
    if kinds == ["Metaspace"] and not spaces_are_single:
        raise _unsupported(
            "pre_tokenizer is Metaspace alone, without Strip and Replace of several spaces before it"
        )
    if kinds[0] == "WhitespaceSplit":
        left = set(surviving_whitespace(document)) & set(_COMMON_WHITESPACE)
        if left:
            raise _unsupported(f"normalizer leaves whitespace {sorted(left)} as it is")


def _unsupported(reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"llama.cpp cannot hold this Unigram tokenizer.json: its {reason}",
        hint="export to the other formats, which carry tokenizer.json itself",
    )
