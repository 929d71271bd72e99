"""What the format refuses before it starts, and how its file is named."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from edgeport.errors import MissingExtra, UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.gguf import GgufFormat
from edgeport.export.formats.table import get_format
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

SCHEMES = [TensorScheme("int4", 32), TensorScheme("int8", 128), TensorScheme("bf16"), TensorScheme("f32")]


@pytest.fixture(scope="module")
def spec(tiny_llama_dir: Path) -> DecoderSpec:
    return open_source(str(tiny_llama_dir)).spec


def test_every_portable_scheme_can_be_held(spec: DecoderSpec, tiny_llama_dir: Path) -> None:
    assert get_format("gguf").name == "gguf"
    assert GgufFormat().reasons_against(spec, SCHEMES, tiny_llama_dir) == []


def test_reasons_name_the_family_and_the_shape(spec: DecoderSpec, tiny_llama_dir: Path) -> None:
    other = dataclasses.replace(spec, family="opt", head_dim=15)
    family, shape = GgufFormat().reasons_against(other, SCHEMES, tiny_llama_dir)
    assert "no runtime for family opt, supported are llama, mistral" in family
    assert "head_dim is 15" in shape


@pytest.mark.parametrize(
    ("schemes", "name"),
    [
        ("int4-g32 int8-g32 int8-g32", "my-model-1.5B-Q4_0.gguf"),
        ("int8-g32 bf16 bf16", "my-model-1.5B-Q8_0.gguf"),
        ("f16", "my-model-1.5B-F16.gguf"),
    ],
)
def test_the_file_is_named_after_its_linear_layers(schemes, name, tiny_llama_dir, export, tmp_path) -> None:

    checkpoint = export(tiny_llama_dir, schemes).checkpoint
    path = GgufFormat().write(checkpoint, tmp_path, WriteOptions("my model/1.5B", 64, NO_PROGRESS))
    assert [item.name for item in tmp_path.iterdir()] == [path.name] == [name]


def test_without_the_engine_nothing_is_written(
    tiny_llama_dir, export, pack, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = export(tiny_llama_dir, "f16").checkpoint
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="llama_cpp") as caught:
        pack(checkpoint, tmp_path / "gguf")
    assert caught.value.hint == "pip install 'edgeport[gguf]'"
    assert list((tmp_path / "gguf").iterdir()) == []


def test_an_unknown_tokenizer_leaves_nothing(tiny_llama_dir, checkpoint_of, pack, tmp_path) -> None:
    checkpoint = checkpoint_of(tiny_llama_dir, "f16", tmp_path / "checkpoint")
    path = checkpoint.source_directory / "tokenizer.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace("(?:[sdmt]|ll|ve|re)", "(?:[sdmt])"), encoding="utf-8"
    )
    with pytest.raises(UnsupportedModel, match="Split \\+ ByteLevel"):
        pack(checkpoint, tmp_path / "gguf")
    assert list((tmp_path / "gguf").iterdir()) == []
