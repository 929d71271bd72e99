"""Vocabulary: only the tokens that a text uses stay; embedding and head lose the other rows, the tokenizer follows.

A small multilingual model is often half embedding. What stays: the tokens of the text, one token for every byte, all added
tokens, and whatever config.json and generation_config.json name. Any text can still be written, in shorter pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.calibrate.reading import read_path
from edgeport.export.calibrate.sources import AUTO, embedded_text
from edgeport.export.prune.bpe import Document, closed_tokens, require_byte_level_bpe, trimmed
from edgeport.export.prune.kept import Indices
from edgeport.export.source import SourceModel
from edgeport.lazy import missing_extra

STALE_FILES = ("vocab.json", "merges.txt", "added_tokens.json")
"""Older forms of tokenizer.json: they would disagree with the trimmed one, so they are not written."""
_MOST_BYTES = 256 << 20
_PIECE_CHARACTERS = 1 << 18
_SOURCE_TEXT = Path("text") / "calibration.txt"


@dataclass(frozen=True, slots=True)
class VocabularyCut:
    """tokens: ids of the source that stay, ascending; the place in it is the new id. config: changed keys of config.json.
    files: side files with new contents, by name."""

    tokens: Indices
    config: Mapping[str, Any]
    files: Mapping[str, Document]
    notes: tuple[str, ...]


def plan_vocabulary(source: SourceModel, wanted: str) -> VocabularyCut:
    """Read the text and check that the trimmed tokenizer cuts it into the same tokens.

    Raises UsageError for a text that cannot be read; UnsupportedModel for another tokenizer than byte-level BPE, for
    tokens without embedding, and where the two tokenizers disagree on the text.
    """
    tokenizer = json.loads((source.directory / "tokenizer.json").read_text(encoding="utf-8"))
    require_byte_level_bpe(tokenizer)
    text = _text(source, wanted)
    pieces = [text[start : start + _PIECE_CHARACTERS] for start in range(0, len(text), _PIECE_CHARACTERS)]
    ids = _encode(tokenizer, pieces)
    generation = _read(source, "generation_config.json")
    named = [*_named_ids(source.spec.config), *_named_ids(generation)]
    used = set(np.unique(np.concatenate(ids)).tolist()) | set(named)
    tokens = closed_tokens(tokenizer, used)
    if tokens[-1] >= source.spec.vocab_size:
        raise UnsupportedModel(
            f"the tokenizer has token {tokens[-1]}, the model has embeddings 0 to {source.spec.vocab_size - 1}",
            hint="resize the model's embedding to the tokenizer",
        )
    renamed = {number: place for place, number in enumerate(tokens)}
    document = trimmed(tokenizer, renamed)
    kept = np.array(tokens, dtype=np.int64)
    _check_same(ids, _encode(document, pieces), kept)
    config = {"vocab_size": len(tokens)} | _renamed_ids(source.spec.config, renamed)
    files = {"tokenizer.json": document}
    if generation:
        files["generation_config.json"] = generation | _renamed_ids(generation, renamed)
    settings = _read(source, "tokenizer_config.json")
    if settings:
        files["tokenizer_config.json"] = _renamed_settings(settings, renamed)
    note = f"vocabulary: {len(tokens)} of {source.spec.vocab_size} tokens; the text uses {len(used)} of them"
    return VocabularyCut(kept, config, files, (note,))


def _text(source: SourceModel, wanted: str) -> str:
    path = source.directory / _SOURCE_TEXT if wanted == AUTO else Path(wanted)
    if wanted == AUTO and not path.is_file():
        return embedded_text()
    if not path.exists():
        raise UsageError(
            f"no text {wanted!r} to take the vocabulary from", hint="give a file, a folder, or auto"
        )
    text = read_path(path, _MOST_BYTES)
    if not text:
        raise UsageError(f"{path} is empty", hint="give the text the model has to understand and write")
    return text


def _encode(tokenizer: Mapping[str, Any], pieces: list[str]) -> list[Indices]:
    with missing_extra("export", purpose="tokenizing"):
        from tokenizers import Tokenizer
    encoder = Tokenizer.from_str(json.dumps(tokenizer))
    encoder.no_truncation()
    encoder.no_padding()
    return [np.array(encoder.encode(piece).ids, dtype=np.int64) for piece in pieces]


def _check_same(before: list[Indices], after: list[Indices], kept: Indices) -> None:
    """The new ids, read as old ones, must be the very sequence."""
    for old, new in zip(before, after, strict=True):
        if not np.array_equal(old, kept[new]):
            raise UnsupportedModel(
                "the trimmed tokenizer cuts the text into other tokens than the model's own",
                hint="this tokenizer does more than byte-level BPE; leave out --vocabulary",
            )


def _id_keys(document: Mapping[str, Any]) -> list[str]:
    """Keys that hold a token id or a list of them."""
    return [
        key
        for key, value in document.items()
        if (key.endswith("_token_id") or key in ("suppress_tokens", "begin_suppress_tokens"))
        and value is not None
    ]


def _named_ids(document: Mapping[str, Any]) -> list[int]:
    values = [document[key] for key in _id_keys(document)]
    return [int(number) for value in values for number in (value if isinstance(value, list) else [value])]


def _renamed_ids(document: Mapping[str, Any], renamed: Mapping[int, int]) -> dict[str, Any]:
    def rename(value: Any) -> Any:
        return [renamed[int(number)] for number in value] if isinstance(value, list) else renamed[int(value)]

    return {key: rename(document[key]) for key in _id_keys(document)}


def _renamed_settings(settings: Mapping[str, Any], renamed: Mapping[int, int]) -> Document:
    """tokenizer_config.json: older ones list the added tokens by id."""
    changed = dict(settings)
    if "added_tokens_decoder" in changed:
        changed["added_tokens_decoder"] = {
            str(renamed[int(number)]): token for number, token in changed["added_tokens_decoder"].items()
        }
    return changed


def _read(source: SourceModel, name: str) -> Document:
    path = source.directory / name
    if not path.is_file():
        return {}
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    return document
