"""Tiny tokenizers of every kind, and GGUF files with nothing but their vocabulary."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from edgeport.export.formats.gguf_tokenizer import add_tokenizer, read_tokenizer

sys.path.insert(0, str(Path(__file__).parent))  # builders.py, corpus.py and results.py are imported by path

from builders import ROWS, Tokenizers, WriteVocabulary, write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    """tokenizer_of("gemma-spm") -> its folder; treat it as read-only."""
    made: dict[str, Path] = {}

    def write(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("tokenizers") / kind
            write_tokenizer(kind, made[kind])
        return made[kind]

    return write


@pytest.fixture
def vocabulary_file(tmp_path: Path) -> WriteVocabulary:
    """vocabulary_file(tokenizer folder, field=value, ...) -> a GGUF file without weights.

    The fields replace those of the tokenizer's description: the place to plant a fault.
    """

    def write(directory: Path, name: str = "tiny", **faults: Any) -> Path:
        path = tmp_path / "v.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_name(name)
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_block_count(1)
        add_tokenizer(writer, dataclasses.replace(read_tokenizer(directory, ROWS), **faults))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return path

    return write
