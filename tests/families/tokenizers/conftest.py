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

from builders import QUICK_KINDS, REFUSED_KINDS, ROWS, Tokenizers, WriteVocabulary, write_tokenizer


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


# A process or a large import per kind adds up: of these tests only the kinds named here run by default
_QUICK = {
    "test_gguf": (*QUICK_KINDS, *REFUSED_KINDS),
    "test_every_kind_is_shipped_or_left_out": ("llama3", "gemma-spm"),
    "test_transformers_reads_the_copy_as_it_is": ("granite", "llama2-spm"),
    "test_without_the_change_it_would_not": ("granite",),
    "test_the_limit_is_real_and_spared": ("qwen2", "phi3-spm", "unigram", "gemma-spm", "olmo2"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        quick = _QUICK.get(getattr(item, "originalname", ""))
        parameters = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        if quick is not None and parameters.get("kind") not in quick:
            item.add_marker(pytest.mark.slow)
