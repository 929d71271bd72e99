"""Which kind of tokenizer is proven in which container, and what is refused with what reason. test_parity.py proves each line;
docs/families.md is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["equal", "limited", "refused"]


@dataclass(frozen=True, slots=True)
class Result:
    """outcome: "equal" on all lines; "limited": equal on all but what `reason` names; "refused": no container, for `reason`."""

    kind: str
    container: str
    outcome: Outcome
    reason: str = ""


_COMPOSED = "decomposed letters"
_UNIGRAM = f"{_COMPOSED}, accents on replaced characters"
_BYTE_NAMES = "the name of a byte token (<0x0A>) written in a text"
_BERT = "rare whitespace, long words, letters, written \u2581"

RESULTS: tuple[Result, ...] = (
    Result("gpt2", "gguf", "equal"),
    Result("llama3", "gguf", "equal"),
    Result("qwen2", "gguf", "limited", f"{_COMPOSED}, names of special tokens"),
    Result("smollm", "gguf", "equal"),
    Result("olmo2", "gguf", "limited", "overlapping tokens"),
    Result("granite", "gguf", "equal"),
    Result("opt", "gguf", "equal"),
    Result("roberta", "gguf", "limited", "spaces beside special tokens"),
    Result("llama2-spm", "gguf", "equal"),
    Result("mistral-spm", "gguf", "equal"),
    Result("gemma-spm", "gguf", "limited", "written \u2581"),
    Result("phi3-spm", "gguf", "limited", "spaces beside special tokens"),
    Result("wordpiece", "gguf", "limited", _BERT),
    Result("wordpiece-cased", "gguf", "limited", _BERT),
    Result("unigram", "gguf", "limited", _UNIGRAM),
    Result("t5", "gguf", "limited", _UNIGRAM),
    Result("gpt2", "openvino", "equal"),
    Result("llama3", "openvino", "equal"),
    Result("qwen2", "openvino", "limited", "letters with several accents in decomposed form"),
    Result("smollm", "openvino", "equal"),
    Result("olmo2", "openvino", "equal"),
    Result("granite", "openvino", "equal"),
    Result("opt", "openvino", "equal"),
    Result("roberta", "openvino", "equal"),
    Result("llama2-spm", "openvino", "limited", _BYTE_NAMES),
    Result("mistral-spm", "openvino", "limited", _BYTE_NAMES),
    Result("phi3-spm", "openvino", "limited", _BYTE_NAMES),
    Result("gemma-spm", "openvino", "refused", "its detokenizer takes <code> for a byte"),
    Result("wordpiece", "openvino", "equal"),
    Result("wordpiece-cased", "openvino", "limited", "words of more than 100 bytes"),
    Result("unigram", "openvino", "limited", "accents on replaced characters"),
    Result("t5", "openvino", "limited", "accents on replaced characters"),
    Result("phi4-mini", "openvino", "equal"),
    Result("tekken", "openvino", "equal"),
    Result("llama2-resaved", "openvino", "limited", _BYTE_NAMES),
    Result("phi4-mini", "gguf", "refused", "has no pre-tokenizer for this tokenizer.json"),
    Result("tekken", "gguf", "refused", "has no pre-tokenizer for this tokenizer.json"),
    Result("llama2-resaved", "gguf", "refused", "no whitespace rule"),
)


# onnx carries tokenizer.json itself, safetensors with a class that makes transformers read it (test_transformers.py)
_EVERY_KIND = tuple(dict.fromkeys(item.kind for item in RESULTS))
RESULTS += tuple(
    Result(kind, container, "equal") for container in ("onnx", "safetensors") for kind in _EVERY_KIND
)


def result(kind: str, container: str) -> Result:
    return next(item for item in RESULTS if (item.kind, item.container) == (kind, container))
