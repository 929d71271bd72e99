"""What llama.cpp can hold of added tokens: texts that are tokens wherever they stand, before anything else is done.

A GGUF file has no flags for them. `single_word` does not exist. That a token swallows the whitespace before it (`lstrip`) or after
it (`rstrip`) llama.cpp knows for three models, by name (end of llama_vocab::impl::load in src/llama-vocab.cpp, MIT): `<mask>`
of the pre-tokenizer jina-v2-code, `[MASK]` where general.name holds "modern-bert", and with "phi-3" there every added token
but `<unk>`, `<s>` and `<|endoftext|>`. A tokenizer with exactly these flags gets that name, any other is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UnsupportedModel
from edgeport.export.verify.token_limits import normalizer_of

MASK_PRE = "jina-v2-code"  # cuts text as gpt-2 does, and `<mask>` takes the whitespace before it along
_PHI3 = "phi-3"
_MODERN_BERT = "modern-bert"
_MARKS = {_PHI3: ("phi-3", "phi3"), _MODERN_BERT: ("modern-bert",)}  # what llama.cpp looks for, in lower case
_PHI3_NEEDS = frozenset({"</s>", "<unk>", "<s>", "<|endoftext|>"})
_PHI3_KEEPS = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True, slots=True)
class Stripping:
    """How llama.cpp is told which tokens take whitespace along: by `pre`, or by a part of general.name. Empty: none do."""

    pre: str = ""
    model_name: str = ""


def refuse_untranslatable(document: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for added tokens llama.cpp would look for in another place or another text."""
    tokens = document.get("added_tokens", ())
    problems = [
        f"added token {token['content']!r} has single_word" for token in tokens if token.get("single_word")
    ]
    if document.get("normalizer") is not None:
        normalizer = normalizer_of(document)
        problems += [
            f"added token {token['content']!r} is looked for in normalized text, where it reads otherwise"
            for token in tokens
            if token.get("normalized") and _reads_otherwise(normalizer, token["content"])
        ]
    if problems:
        raise UnsupportedModel(f"llama.cpp cannot hold this tokenizer.json: {'; '.join(problems[:5])}")


def _reads_otherwise(normalizer: Any, text: str) -> bool:
    """Whether normalized text can hold `text` where the text itself does not, or the other way round."""
    same_case = (
        normalizer.normalize_str(text.upper()) == normalizer.normalize_str(text) and text.upper() != text
    )
    return normalizer.normalize_str(text) != text or same_case


def stripping(document: Mapping[str, Any], pre: str) -> Stripping:
    """For a tokenizer in which whitespace beside a token counts. Raises UnsupportedModel for flags no name stands for."""
    tokens = document.get("added_tokens", ())
    left = {token["content"] for token in tokens if token.get("lstrip")}
    right = {token["content"] for token in tokens if token.get("rstrip")}
    if not left and not right:
        return Stripping()
    if left == {"<mask>"} and not right and pre == "gpt-2":
        return Stripping(pre=MASK_PRE)
    if left == {"[MASK]"} and not right:
        return Stripping(model_name=_MODERN_BERT)
    contents = {token["content"] for token in tokens}
    if not left and right == contents - _PHI3_KEEPS and contents >= _PHI3_NEEDS:
        return Stripping(model_name=_PHI3)
    flags = [(token["content"], flag) for token in tokens for flag in ("lstrip", "rstrip") if token.get(flag)]
    shown = "; ".join(f"added token {text!r} has {flag}" for text, flag in flags[:5])
    raise UnsupportedModel(
        f"llama.cpp cannot hold this tokenizer.json: {shown}",
        hint="it knows tokens that take whitespace along only as Phi-3, RoBERTa's <mask> and ModernBERT's [MASK] have them",
    )


def marked_name(name: str, mark: str) -> str:
    """general.name with `mark` in it, and without any other llama.cpp goes by: that would change how text is cut."""
    for other, spellings in _MARKS.items():
        if other != mark:
            for text in spellings:
                name = re.sub(
                    re.escape(text), text.replace("-", "_").replace("phi3", "phi_3"), name, flags=re.I
                )
    if any(text in name.lower() for text in _MARKS.get(mark, ("",))):
        return name
    return f"{name} {mark}".strip()


def partitioned(document: Mapping[str, Any], unlike: str) -> frozenset[str]:
    """Added tokens that no other text can form, because they are taken out first and hold nothing of `unlike`."""
    contents: Sequence[str] = [token["content"] for token in document.get("added_tokens", ())]
    return frozenset(content for content in contents if unlike not in content)
