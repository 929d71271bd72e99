r"""llama.cpp's name for the way a byte-level BPE tokenizer cuts text into words, read from tokenizer.json.

llama.cpp has no regex in the file: it knows pre-tokenizers by name. Upstream's converter finds the name by hashing what
a tokenizer makes of one text, so only listed models work. Here the pre-tokenizer is read as the sequence of its split
patterns, which is what the runtime's names stand for (src/llama-vocab.cpp, MIT; the patterns are tokenizer.json's own).
The name also sets `ignore_merges`: take a word that is a token as it is, without merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeport.errors import UnsupportedModel

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

DIGIT = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")

# other spellings of the same pattern
_SPELLINGS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT2,  # as the tokenizers library has it
}

# (split patterns in order, ignore_merges) -> llama.cpp's name. Not gpt-4o and tekken: llama.cpp approximates their cased
# words, and token parity fails on Devanagari
NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "smollm",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "dbrx",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
}


def pre_tokenizer_name(pre_tokenizer: Mapping[str, Any] | None, *, ignore_merges: bool) -> str:
    """Raises UnsupportedModel, naming the pre-tokenizer and what is supported, when llama.cpp has no exact match."""
    steps = _steps(pre_tokenizer)
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise _unsupported(steps, "it does not end in ByteLevel")
    patterns = tuple(pattern for step in steps for pattern in _patterns(step, steps))
    name = NAMES.get((patterns, ignore_merges))
    if name is None:
        flag = str(ignore_merges).lower()
        raise _unsupported(steps, f"splits {' then '.join(patterns)} with ignore_merges = {flag}")
    return name


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]
    return [pre_tokenizer]


def _patterns(step: Mapping[str, Any], steps: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The patterns one step splits by; empty for a ByteLevel that only maps bytes to characters."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return (GPT2,) if step.get("use_regex", True) else ()
    if kind == "Digits":
        return (DIGIT,) if step.get("individual_digits") else (r"\p{N}+",)
    if kind == "Split" and "Regex" in step["pattern"]:
        # the patterns of the table cover every character, so what lies between matches is empty: both ways are one
        behaviour = (step.get("behavior"), bool(step.get("invert", False)))
        if behaviour in (("Isolated", False), ("Removed", True)):
            pattern = step["pattern"]["Regex"].replace("\r", r"\r").replace("\n", r"\n")
            return (_SPELLINGS.get(pattern, pattern),)
    raise _unsupported(steps, f"step {dict(step)} has no counterpart")


def _unsupported(steps: list[Mapping[str, Any]], reason: str) -> UnsupportedModel:
    shown = " + ".join(str(step.get("type")) for step in steps) or "none"
    names = ", ".join(dict.fromkeys(NAMES.values()))
    return UnsupportedModel(
        f"llama.cpp has no pre-tokenizer for this tokenizer.json: pre_tokenizer {shown}: {reason}",
        hint=f"supported are those of {names}; export to the other formats, which carry tokenizer.json itself",
    )
