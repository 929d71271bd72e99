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

# Other spellings of the same pattern, part by part. Possessive quantifiers take what greedy ones do here, because what follows
# cannot begin with the same characters; `\s*[\r\n]` reaches to the last line end of a run of whitespace, as with `+`.
_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    (r"'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),  # tiktoken's cl100k_base
    (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),  # llama.cpp's own
    (r"'(?:[sdmt]|ll|ve|re)", r"'s|'t|'re|'ve|'m|'ll|'d"),  # the tokenizers library's GPT-2
    (r"[^\r\n\p{L}\p{N}]?+", r"[^\r\n\p{L}\p{N}]?"),
    (r"\p{L}++", r"\p{L}+"),
    (r"\p{N}{1}|", r"\p{N}|"),
    (r"[^\s\p{L}\p{N}]++", r"[^\s\p{L}\p{N}]+"),
    (r"[\r\n]*+", r"[\r\n]*"),
    (r"|\s*[\r\n]|", r"|\s*[\r\n]+|"),
)

# (split patterns in order, ignore_merges) -> llama.cpp's name. Several names stand for the same patterns (refact, starcoder and
# granite's for smollm's; olmo and modern-bert for gpt-2's; smaug-bpe for dbrx's): one of them is enough. Not in the table:
# gpt-4o, tekken and what is built on them: llama.cpp approximates their cased words, and token parity fails on Devanagari;
# names whose patterns llama.cpp gives to std::regex (deepseek, falcon, bloom ...), which recurses for each character of a word
NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((DIGIT, GPT2), False): "smollm",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "dbrx",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
}
_COVERING = frozenset({GPT2, LLAMA3, QWEN2, QWEN35})


def pre_tokenizer_name(pre_tokenizer: Mapping[str, Any] | None, *, ignore_merges: bool) -> str:
    """Raises UnsupportedModel, naming the pre-tokenizer and what is supported, when llama.cpp has no exact match."""
    steps = pre_tokenizer_steps(pre_tokenizer)
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise _unsupported(steps, "it does not end in ByteLevel")
    patterns = tuple(pattern for step in steps for pattern in _patterns(step, steps))
    name = NAMES.get((patterns, ignore_merges))
    if name is None:
        flag = str(ignore_merges).lower()
        raise _unsupported(steps, f"splits {' then '.join(patterns)} with ignore_merges = {flag}")
    return name


def pre_tokenizer_steps(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps in order, sequences within sequences unfolded."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in pre_tokenizer_steps(inner)]
    return [pre_tokenizer]


def _patterns(step: Mapping[str, Any], steps: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The patterns one step splits by; empty for a ByteLevel that only maps bytes to characters."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return (GPT2,) if step.get("use_regex", True) else ()
    if kind == "Digits":
        return (DIGIT,) if step.get("individual_digits") else (r"\p{N}+",)
    if kind == "Split" and "Regex" in step["pattern"]:
        pattern = step["pattern"]["Regex"]
        for spelling, usual in _SPELLINGS:
            pattern = pattern.replace(spelling, usual)
        # what covers every character leaves nothing between two matches, so dropping what lies there is the same
        behaviour = (step.get("behavior"), bool(step.get("invert", False)))
        if behaviour == ("Isolated", False) or (behaviour == ("Removed", True) and pattern in _COVERING):
            return (pattern,)
    raise _unsupported(steps, f"step {dict(step)} has no counterpart")


def _unsupported(steps: list[Mapping[str, Any]], reason: str) -> UnsupportedModel:
    shown = " + ".join(str(step.get("type")) for step in steps) or "none"
    names = ", ".join(dict.fromkeys(NAMES.values()))
    return UnsupportedModel(
        f"llama.cpp has no pre-tokenizer for this tokenizer.json: pre_tokenizer {shown}: {reason}",
        hint=f"supported are those of {names}; export to the other formats, which carry tokenizer.json itself",
    )
