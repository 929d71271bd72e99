"""Tokenizers for the twins: the reference model's byte-level BPE behind another family's pre-tokenizer.

A real tokenizer of those families cannot be shipped; what a converter has to get right (pre-tokenizer kind, special
tokens, a BOS that is added or not, a vocabulary larger than the tokenizer) is here as published. JSON only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFERENCE_TOKENIZER = Path(__file__).resolve().parent / "reference" / "tokenizer.json"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = _CONTRACTIONS + r"\p{N}" + _REST
LLAMA3_PATTERN = _CONTRACTIONS + r"\p{N}{1,3}" + _REST

CHATML_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TokenizerKind:
    """What distinguishes one family's tokenizer; special tokens in the order of their ids (0, 1, 2, then 4096...)."""

    special_tokens: tuple[str, ...]
    bos: str | None
    end_of_text: str
    end_of_turn: str
    pattern: str | None
    individual_digits: bool
    add_bos: bool
    ignore_merges: bool
    normalizer: dict[str, Any] | None
    chat_template: str


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
KINDS = {
    "smollm": TokenizerKind(
        _CHATML,
        "<|endoftext|>",
        "<|endoftext|>",
        "<|im_end|>",
        None,
        True,
        False,
        False,
        None,
        CHATML_TEMPLATE,
    ),
    "qwen2": TokenizerKind(
        _CHATML,
        None,
        "<|endoftext|>",
        "<|im_end|>",
        QWEN2_PATTERN,
        False,
        False,
        False,
        {"type": "NFC"},
        CHATML_TEMPLATE,
    ),
    "llama3": TokenizerKind(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        LLAMA3_PATTERN,
        False,
        True,
        True,
        None,
        LLAMA3_TEMPLATE,
    ),
}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _pre_tokenizer(kind: TokenizerKind) -> dict[str, Any]:
    if kind.pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": kind.pattern}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}
    digits = {"type": "Digits", "individual_digits": kind.individual_digits}
    return {"type": "Sequence", "pretokenizers": [digits, _byte_level(use_regex=True)]}


def _post_processor(kind: TokenizerKind, bos_id: int | None) -> dict[str, Any]:
    if not kind.add_bos or kind.bos is None or bos_id is None:
        return _byte_level(use_regex=True)
    bos = {"SpecialToken": {"id": kind.bos, "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    template = {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, {"SpecialToken": {"id": kind.bos, "type_id": 1}}, second],
        "special_tokens": {kind.bos: {"id": kind.bos, "ids": [bos_id], "tokens": [kind.bos]}},
    }
    return {"type": "Sequence", "processors": [_byte_level(use_regex=True), template]}


def special_ids(kind: TokenizerKind, bpe_tokens: int) -> dict[str, int]:
    """Ids of the special tokens: the reference tokenizer's own three first, further ones behind its vocabulary."""
    reused = len(_CHATML)
    return {
        text: index if index < reused else bpe_tokens + index - reused
        for index, text in enumerate(kind.special_tokens)
    }


@dataclass(frozen=True)
class WrittenTokenizer:
    """What the model's configuration has to know of its tokenizer."""

    size: int
    bos_id: int | None
    end_of_text_id: int
    end_of_turn_id: int


def write_tokenizer(kind_name: str, directory: Path, max_length: int) -> WrittenTokenizer:
    """Writes tokenizer.json and tokenizer_config.json as published models have them."""
    kind = KINDS[kind_name]
    document = json.loads(REFERENCE_TOKENIZER.read_text(encoding="utf-8"))
    vocab: dict[str, int] = {
        token: index for token, index in document["model"]["vocab"].items() if token not in _CHATML
    }
    ids = special_ids(kind, len(document["model"]["vocab"]))
    vocab |= {text: index for text, index in ids.items() if index < len(_CHATML)}
    document["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    document["model"]["ignore_merges"] = kind.ignore_merges
    document["added_tokens"] = [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for text, index in ids.items()
    ]
    document["normalizer"] = kind.normalizer
    document["pre_tokenizer"] = _pre_tokenizer(kind)
    document["post_processor"] = _post_processor(kind, ids[kind.bos] if kind.bos else None)
    config = {
        "add_prefix_space": False,
        "bos_token": kind.bos,
        "chat_template": kind.chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": kind.end_of_text,
        "model_max_length": max_length,
        "pad_token": kind.end_of_text,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return WrittenTokenizer(
        max(max(ids.values()) + 1, len(vocab)),
        ids[kind.bos] if kind.bos else None,
        ids[kind.end_of_text],
        ids[kind.end_of_turn],
    )
