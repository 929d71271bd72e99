"""Texts that llama.cpp is known to cut otherwise, with no setting in a GGUF file to mend it.

Each limit is a fact about llama.cpp's tokenizers (src/llama-vocab.cpp, src/unicode.cpp) and one way tokenizer.json can be. Texts are
compared after `spare` has taken out what the limit is about, so that everything else is still proven. docs/formats/gguf.md lists
them; tests/families/tokenizers/test_limits.py shows each difference, so that one which a new version mends is noticed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

LIMITS_KEY = "edgeport.tokenizer_limits"
"""Where a GGUF file says what llama.cpp cuts otherwise; without the key, nothing is known."""
_SPACE = "\u2581"
_OTHER_SPACES = "\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """`what` llama.cpp does, in words for a user; `spare` gives a text without what this is about."""

    name: str
    what: str
    spare: Callable[[str], str]


def token_limits(document: Mapping[str, Any]) -> tuple[TokenLimit, ...]:
    """Those that concern a tokenizer.json, in the order in which they have to be spared."""
    kind = document["model"]["type"]
    normalizer = document.get("normalizer") or {}
    limits = []
    if kind == "Unigram" or normalizer.get("type") == "NFC":
        limits.append(_COMPOSED)
    if kind == "Unigram":
        limits.append(_accents_on_replaced(document))
        left = surviving_whitespace(document)
        if left:
            limits.append(_whitespace(left, "takes for letters what ends a word in tokenizer.json"))
    elif kind == "WordPiece":
        limits.append(_whitespace("\x0b\x0c\x85", "ends a word at what tokenizer.json drops"))
        limits.append(_long_words(int(document["model"].get("max_input_chars_per_word", 100))))
        lowercase = bool(normalizer.get("lowercase", True))
        accents = normalizer.get("strip_accents")
        limits.append(_letters(lowercase, lowercase if accents is None else bool(accents)))
        limits.append(_WRITTEN_BEGINNINGS)
    elif strips := _stripping_tokens(document):
        limits.append(_spaces_beside(strips))
    contents = [token["content"] for token in document.get("added_tokens", ())]
    if ordinary := _ordinary_names(document) - set(contents):
        limits.append(_taken_for_special(sorted(ordinary)))
    if document["model"].get("byte_fallback") and any(set(content) == {_SPACE} for content in contents):
        limits.append(_WRITTEN_SPACES)
    if shared := _overlaps(contents):
        limits.append(_overlapping(shared))
    return tuple(limits)


def normalizer_of(document: Mapping[str, Any]) -> Any:
    """The normalizer as the tokenizers library has it, None without one; the vocabulary, which can be large, is not read."""
    from tokenizers import Tokenizer

    empty: dict[str, Any] = {"type": "BPE", "vocab": {}, "merges": []}
    parts: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": document.get("normalizer"),
        "model": empty,
    }
    return Tokenizer.from_str(json.dumps(parts)).normalizer


def surviving_whitespace(document: Mapping[str, Any]) -> str:
    """Whitespace other than the space that a normalizer leaves as it is, as characters."""
    normalizer = normalizer_of(document)
    kinds = [chr(code) for code in range(0x09, 0x3001) if chr(code).isspace() and not 0x1C <= code <= 0x20]
    if normalizer is None:
        return "".join(kinds)
    return "".join(kind for kind in kinds if kind in normalizer.normalize_str(f"a{kind}a"))


def comparable(document: Mapping[str, Any], texts: Sequence[str]) -> list[str]:
    """The texts without what the limits of `document` are about."""
    limits = token_limits(document)
    spared = list(texts)
    for limit in limits:
        spared = [limit.spare(text) for text in spared]
    return spared


_WRITTEN_SPACES = TokenLimit(
    "written \u2581",
    "takes \u2581 written in a text for a space like any other, where tokenizer.json has a token for several of them",
    lambda text: text.replace(_SPACE, " "),
)
# Whatever a vocabulary says of them, llama.cpp takes tokens of these names for special ones (llama_vocab::impl::load)
_SPECIAL_NAMES = frozenset(
    re.findall(
        r"\S+",
        "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] <｜end▁of▁sentence｜> "
        "<end_of_utterance> <|eom_id|> <|return|> <|call|> <|flush|> <|calls|> </s> [EOS] <eos> <turn|> <|tool_response> [e~[ "
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|> <|fim_suffix|> "
        "<fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|> <|fim_middle|> <fim-middle> "
        "<fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|> <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] "
        "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>",
    )
)


def _ordinary_names(document: Mapping[str, Any]) -> set[str]:
    vocab = document["model"]["vocab"]
    texts = vocab.keys() if isinstance(vocab, Mapping) else (entry[0] for entry in vocab)
    return {text for text in texts if text in _SPECIAL_NAMES}


def _taken_for_special(names: Sequence[str]) -> TokenLimit:
    """Qwen2's vocabulary has an ordinary token `</s>`, which its own pre-tokenizer never puts together."""
    what = f"takes {', '.join(names)} written in a text for a special token, which it is not here"
    pattern = re.compile("|".join(map(re.escape, names)))
    return TokenLimit("names of special tokens", what, lambda text: pattern.sub(" ", text))


_WRITTEN_BEGINNINGS = TokenLimit(
    "written \u2581",
    "takes \u2581 written in a text for the beginning of a word",
    lambda text: text.replace(_SPACE, " "),
)
_COMPOSED = TokenLimit(
    "decomposed letters",
    "does not compose letters and accents, so a text in decomposed form reads otherwise; compose it first (Unicode NFC)",
    lambda text: unicodedata.normalize("NFC", text),
)


def _accents_on_replaced(document: Mapping[str, Any]) -> TokenLimit:
    """The tokenizers library looks up a character and its accents together, and takes the first replacement for both."""
    normalizer = normalizer_of(document)

    def spare(text: str) -> str:
        kept: list[str] = []
        for character in text:
            accent = unicodedata.category(character).startswith("M")
            if not (accent and kept and normalizer.normalize_str(kept[-1]) != kept[-1]):
                kept.append(character)
        return "".join(kept)

    what = "keeps an accent on a character that the character map replaces, where tokenizer.json drops it"
    return TokenLimit("accents on replaced characters", what, spare)


def _whitespace(characters: str, what: str) -> TokenLimit:
    told = ", ".join(f"U+{ord(character):04X}" for character in characters)
    pattern = re.compile(f"[{re.escape(characters)}]")
    return TokenLimit("rare whitespace", f"{what}: {told}", lambda text: pattern.sub(" ", text))


def _long_words(longest: int) -> TokenLimit:
    """A word can grow a little when it is put into lower case, so what is left stays below."""
    pattern = re.compile(rf"(\S{{{longest * 4 // 5}}})\S+")
    what = f"cuts words of more than {longest} characters into pieces, which tokenizer.json takes for unknown"
    return TokenLimit("long words", what, lambda text: pattern.sub(r"\1", text))


def _letters(lowercase: bool, strip_accents: bool) -> TokenLimit:
    what = (
        "reads Korean syllables as their first letter and drops the vowel signs of Indic scripts"
        if strip_accents
        else "lowers single characters only"
    )

    def spare(text: str) -> str:
        kept = (character for character in text if _same_letter(character, lowercase, strip_accents))
        return "".join(kept)

    return TokenLimit("letters", f"{what}, and knows newer characters than tokenizer.json", spare)


@lru_cache(maxsize=100_000)
def _same_letter(character: str, lowercase: bool, strip_accents: bool) -> bool:
    """Whether BertNormalizer and llm_tokenizer_wpm::preprocess make the same of one character."""
    if character.isascii():
        return True
    decomposed = unicodedata.normalize("NFD", character) if strip_accents else character
    kept = [part for part in decomposed if not (strip_accents and unicodedata.category(part) == "Mn")]
    want = "".join(kept).lower() if lowercase else "".join(kept)
    first = decomposed[0]
    lowered = first.lower() if lowercase and len(first.lower()) == 1 else first
    got = "" if strip_accents and unicodedata.category(first).startswith("M") else lowered
    return want == got and unicodedata.category(character) not in ("Cn", "Co")


def _stripping_tokens(document: Mapping[str, Any]) -> list[str]:
    tokens = document.get("added_tokens", ())
    return [token["content"] for token in tokens if token.get("lstrip") or token.get("rstrip")]


def _spaces_beside(tokens: Sequence[str]) -> TokenLimit:
    contents = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    space = rf"[\s{_OTHER_SPACES}]"
    pattern = re.compile(rf"{space}*({contents}){space}*")
    what = f"lets {tokens[0]!r} and its like take only ASCII whitespace along, tokenizer.json any"

    def spare(text: str) -> str:
        return pattern.sub(lambda match: _ascii_spaces(match.group()), text)

    return TokenLimit("spaces beside special tokens", what, spare)


def _ascii_spaces(text: str) -> str:
    return re.sub(rf"[{_OTHER_SPACES}\x1c-\x1f]", " ", text)


def _overlaps(contents: Sequence[str]) -> dict[str, str]:
    """Text -> its first token, where one added token begins inside another and the longer one is not the first."""
    beginning: dict[str, list[str]] = defaultdict(list)
    for token in contents:
        for size in range(1, len(token)):
            beginning[token[:size]].append(token)
    found: dict[str, str] = {}
    for first in contents:
        for at in range(1, len(first)):
            for second in beginning.get(first[at:], ()):
                text = first[:at] + second
                if len(second.encode()) >= len(first.encode()) and not text.startswith(second):
                    found[text] = first
    return found


def _overlapping(shared: Mapping[str, str]) -> TokenLimit:
    text, first = next(iter(shared.items()))
    what = f"takes the longer of two tokens that share characters, tokenizer.json the first ({first!r} in {text!r})"

    def spare(line: str) -> str:
        for together, begins in shared.items():
            line = line.replace(together, f"{begins} {together[len(begins) :]}")
        return line

    return TokenLimit("overlapping tokens", what, spare)
