"""Tokenizer, chat template and special tokens as the files beside a model tell them, and where these files disagree.

Ids come from tokenizer.json itself: https://huggingface.co/docs/tokenizers (model, added_tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeport.runtimes.inspect.document import Problem, TokenizerFacts, error, warning
from edgeport.runtimes.inspect.side_files import (
    CONFIG,
    GENAI,
    GENERATION,
    OPENVINO_TOKENIZER,
    TOKENIZER,
    TOKENIZER_CONFIG,
    SideFiles,
    mapping,
    size,
)

OTHER_FILES = (("tokenizer.model", "SentencePiece"), ("vocab.txt", "WordPiece"), ("vocab.json", "BPE"))
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, slots=True)
class TokenIds:
    """by_text: every token of tokenizer.json. count: tokens. rows: rows an embedding needs for the highest id."""

    by_text: Mapping[str, int]
    count: int
    rows: int


def token_ids(document: Mapping[str, Any]) -> TokenIds | None:
    """From tokenizer.json; None where it holds no vocabulary."""
    vocabulary = mapping(document.get("model")).get("vocab")
    if isinstance(vocabulary, Mapping):
        ids = {text: number for text, value in vocabulary.items() if (number := size(value)) is not None}
    elif isinstance(vocabulary, list):  # Unigram: [piece, score] in the order of ids
        pieces = (entry[0] if isinstance(entry, list) and entry else None for entry in vocabulary)
        ids = {text: number for number, text in enumerate(pieces) if isinstance(text, str)}
    else:
        return None
    for token in _added(document):
        text, number = token.get("content"), size(token.get("id"))
        if isinstance(text, str) and number is not None:
            ids[text] = number
    return TokenIds(ids, len(ids), 1 + max(ids.values(), default=-1))


def tokenizer_facts(files: SideFiles, ids: TokenIds | None) -> TokenizerFacts | None:
    document = files.get(TOKENIZER)
    if document:
        kind = mapping(document.get("model")).get("type")
        steps = {str(step) for step in _types([document.get("pre_tokenizer"), document.get("decoder")])}
        byte_level = "byte-level " if "ByteLevel" in steps else ""
        name = kind if isinstance(kind, str) else "unknown kind"
        return TokenizerFacts(f"{byte_level}{name}", ids.count if ids else None, TOKENIZER)
    for name, kind in (*OTHER_FILES, (OPENVINO_TOKENIZER, "OpenVINO tokenizer")):
        if files.has(name):
            return TokenizerFacts(kind, None, name)
    return None


def has_chat_template(files: SideFiles) -> bool:
    named = [files.get(file).get("chat_template") for file in (TOKENIZER_CONFIG, OPENVINO_TOKENIZER)]
    return any(named) or any(files.has(name) for name in TEMPLATE_FILES)


def decoder_problems(files: SideFiles, ids: TokenIds | None, vocab_size: int | None) -> Iterator[Problem]:
    """What keeps a decoder from reading and writing text as it should. vocab_size: rows of the embedding."""
    if not has_chat_template(files):
        yield warning(
            "there is no chat template: only plain prompts can be continued",
            "put the model's chat_template.jinja beside it, or use a chat model",
        )
    yield from special_token_problems(files, ids)
    yield from vocabulary_problems(ids, vocab_size)


def vocabulary_problems(ids: TokenIds | None, vocab_size: int | None) -> Iterator[Problem]:
    if ids is not None and vocab_size and ids.rows > vocab_size:
        yield error(
            f"the tokenizer has ids up to {ids.rows - 1}, the embedding has {vocab_size} rows",
            "take the tokenizer that belongs to the model, or resize the embedding before export",
        )


def special_token_problems(files: SideFiles, ids: TokenIds | None) -> Iterator[Problem]:
    ends = _said(files, "eos", ids)
    if not ends:
        yield error(
            "no file names an end token: a text never ends by itself",
            "set eos_token_id in generation_config.json, and eos_token in tokenizer_config.json",
        )
    yield from _disagreements("end (eos)", ends)
    yield from _disagreements("begin (bos)", _said(files, "bos", ids))


def _said(files: SideFiles, name: str, ids: TokenIds | None) -> dict[str, frozenset[int]]:
    """File name -> the ids it gives for `bos` or `eos`; files that say nothing are left out."""
    key = f"{name}_token_id"
    said = {
        CONFIG: _ids(files.config().get(key)),
        GENERATION: _ids(files.get(GENERATION).get(key)),
        GENAI: _ids(files.genai_model().get(key)),
        OPENVINO_TOKENIZER: _ids(files.get(OPENVINO_TOKENIZER).get(key)),
    }
    text = files.get(TOKENIZER_CONFIG).get(f"{name}_token")
    text = text.get("content") if isinstance(text, Mapping) else text
    if ids is not None and isinstance(text, str) and text in ids.by_text:
        said[TOKENIZER_CONFIG] = frozenset((ids.by_text[text],))
    return {file: numbers for file, numbers in said.items() if numbers}


def _disagreements(what: str, said: Mapping[str, frozenset[int]]) -> Iterator[Problem]:
    """Files may name more or fewer tokens, as generation_config.json does; none in common is a mistake."""
    entries = list(said.items())
    for index, (file, ids) in enumerate(entries):
        for other, others in entries[index + 1 :]:
            if not ids & others:
                yield warning(
                    f"the {what} token is {_shown(ids)} in {file} and {_shown(others)} in {other}",
                    "let both files name the token the model was trained with",
                )
                return


def _shown(ids: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(ids)[:4]))


def _ids(value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(number for item in values[:64] if (number := size(item)) is not None)


def _added(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    tokens = document.get("added_tokens")
    yield from (token for token in (tokens if isinstance(tokens, list) else []) if isinstance(token, Mapping))


def _types(value: Any) -> Iterator[Any]:
    """Every `type` in a tree of steps."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            if "type" in item:
                yield item["type"]
            waiting.extend(child for child in item.values() if isinstance(child, Mapping | list))
        elif isinstance(item, list):
            waiting.extend(item)
