"""GGUF files of the tiny models, written once per scheme, with the checkpoint they were packed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf import GgufFormat
from edgeport.export.formats.gguf_tokenizer import add_tokenizer, read_tokenizer
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import Recipe, parse_scheme
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS


@dataclass(frozen=True, slots=True)
class Written:
    model: Path
    checkpoint: Checkpoint
    path: Path


Export = Callable[[Path, str], Written]


def make_checkpoint(model: Path, schemes: str, directory: Path) -> Checkpoint:
    """`schemes` is one scheme for all, or "linear embedding head"."""
    names = schemes.split() if " " in schemes else [schemes] * 3
    linear, embedding, head = (parse_scheme(name) for name in names)
    directory.mkdir(parents=True)
    source = open_source(str(model))
    quantize(source, Recipe("t", "", linear, embedding, head), directory, threads=1, progress=NO_PROGRESS)
    return Checkpoint(directory, source.spec)


def write_gguf(checkpoint: Checkpoint, directory: Path, name: str = "tiny") -> Path:
    directory.mkdir(parents=True)
    return GgufFormat().write(checkpoint, directory, WriteOptions(name, 64, NO_PROGRESS))


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """export(model folder, schemes) -> Written; cached, so treat files as read-only."""
    cache: dict[tuple[Path, str], Written] = {}

    def run(model: Path, schemes: str) -> Written:
        if (model, schemes) not in cache:
            folder = tmp_path_factory.mktemp("gguf")
            checkpoint = make_checkpoint(model, schemes, folder / "checkpoint")
            cache[model, schemes] = Written(model, checkpoint, write_gguf(checkpoint, folder / "gguf"))
        return cache[model, schemes]

    return run


@pytest.fixture
def pack() -> Callable[[Checkpoint, Path], Path]:
    return write_gguf


@pytest.fixture
def checkpoint_of() -> Callable[[Path, str, Path], Checkpoint]:
    return make_checkpoint


@pytest.fixture
def write_vocabulary() -> Callable[..., Path]:
    """write_vocabulary(tokenizer folder, vocab_size, field=value, ...) -> a GGUF file without weights.

    The fields replace those of the tokenizer's description: the place to plant a fault.
    """

    def write(directory: Path, vocab_size: int, **faults: Any) -> Path:
        writer = GGUFWriter(directory / "v.gguf", "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_block_count(1)
        add_tokenizer(writer, dataclasses.replace(read_tokenizer(directory, vocab_size), **faults))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return directory / "v.gguf"

    return write
