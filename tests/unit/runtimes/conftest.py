"""A tiny packed artifact without the manifest, and a vocabulary of single characters for tests of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share table_session.py


@pytest.fixture(scope="session")
def packed_dir(tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sub-folders gguf, onnx, openvino, safetensors with one INT4 model. Read-only."""
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.formats.base import WriteOptions
    from edgeport.export.formats.table import FORMATS, get_format
    from edgeport.export.quantize.run import quantize
    from edgeport.export.recipe import load_recipe
    from edgeport.export.source import open_source
    from edgeport.progress import Progress

    work, packed = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("packed")
    source = open_source(str(tiny_qwen2_dir))
    quantize(source, replace(load_recipe("int4"), solver="rtn"), work, threads=2, progress=Progress())
    for name in FORMATS:
        (packed / name).mkdir()
        get_format(name).write(
            Checkpoint(work, source.spec), packed / name, WriteOptions("tiny", 256, Progress())
        )
    return packed


class ByteTokenizer:
    """One token per byte of UTF-8; 256 is the stop token."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def is_stop(self, token: int) -> bool:
        return token == 256

    def chat_prompt(self, messages: Sequence[object]) -> str:
        return "".join(str(message) for message in messages)


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
