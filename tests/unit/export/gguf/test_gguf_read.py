"""Reading back gives exactly the checkpoint's weights, and damage is found and named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.formats import gguf as gguf_format
from edgeport.export.formats import gguf_tensors
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.read_gguf import dequantized_copy, read_weights

SCHEMES = [
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int8-g32",
    "int4-g32 int8-g32 int8-g64",
    "bf16",
    "f16",
    "f32",
]


@pytest.fixture(params=["tiny_llama_dir", "tiny_qwen2_dir"])
def model(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("schemes", SCHEMES)
def test_every_weight_reads_back_exactly(model, schemes, export) -> None:
    written = export(model, schemes)
    found = dict(read_weights(written.path))
    assert sorted(found) == sorted(written.checkpoint.names())
    for name, values in found.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, written.checkpoint.tensor(name).dequantize()), name


def test_metadata_is_what_the_model_says(tiny_qwen2_dir, export) -> None:
    written = export(tiny_qwen2_dir, "int4-g32 int8-g32 int8-g64")
    header = read_header(written.path)
    expected = {
        "general.architecture": "qwen2",
        "general.name": "tiny",
        "general.file_type": 2,
        "general.quantization_version": 2,
        "qwen2.block_count": 2,
        "qwen2.context_length": 256,
        "qwen2.embedding_length": 64,
        "qwen2.feed_forward_length": 128,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.key_length": 16,
        "qwen2.rope.freq_base": 1000000.0,
        "qwen2.vocab_size": 512,
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "edgeport.weights_id": written.checkpoint.weights_id,
    }
    assert {key: header.metadata.get(key) for key in expected} == expected
    assert written.path.name == "tiny-Q4_0.gguf"


def test_own_header_agrees_with_the_gguf_package(tiny_llama_dir, export) -> None:
    path = export(tiny_llama_dir, "int4-g32").path
    reader, header = GGUFReader(path), read_header(path)
    theirs = [
        (t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset) for t in reader.tensors
    ]
    assert [(t.name, t.shape, t.type, t.start) for t in header.tensors] == theirs
    own = {key: value for key, value in header.metadata.items() if isinstance(value, (str, int, float))}
    assert own == {key: reader.fields[key].contents() for key in own}


def test_writing_twice_gives_the_same_bytes(tiny_llama_dir, export, pack, tmp_path) -> None:
    written = export(tiny_llama_dir, "int8-g32")
    assert pack(written.checkpoint, tmp_path / "again").read_bytes() == written.path.read_bytes()


def test_truncation_names_file_and_tensor(tiny_llama_dir, export, tmp_path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copyfile(export(tiny_llama_dir, "int4-g32").path, path)
    last = read_header(path).tensors[-1]
    os.truncate(path, last.stop - 1)
    with pytest.raises(ArtifactError, match=rf"cut\.gguf.*{last.name}"):
        list(read_weights(path))


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 5000])
def test_a_file_cut_in_its_header_is_refused(kept, tiny_llama_dir, export, tmp_path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(export(tiny_llama_dir, "int4-g32").path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match=r"cut\.gguf"):
        list(read_weights(path))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"GGUF", b"GGML", "not a GGUF file"),
        (b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight", "ffn_uq"),
        (b"blk.0.attn_q.weight\x02", b"blk.0.attn_q.weight\x09", "attn_q.*9 dimensions"),
        (b"llama.attention.head_count\x04", b"llama.attention.head_coumt\x04", "head_count"),
    ],
)
def test_a_damaged_header_is_refused(old, new, match, tiny_llama_dir, export, tmp_path) -> None:
    data = export(tiny_llama_dir, "int4-g32").path.read_bytes()
    assert data.count(old) == 1
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data.replace(old, new))
    with pytest.raises(ArtifactError, match=match):
        list(read_weights(path))


def test_a_flipped_bit_reads_as_another_weight(tiny_llama_dir, export, tmp_path) -> None:
    written = export(tiny_llama_dir, "int4-g32")
    target = next(item for item in read_header(written.path).tensors if item.name == "blk.1.ffn_down.weight")
    data = bytearray(written.path.read_bytes())
    data[target.start + 7] ^= 0x10
    path = tmp_path / "flipped.gguf"
    path.write_bytes(data)
    different = [
        name
        for name, values in read_weights(path)
        if not np.array_equal(values, written.checkpoint.tensor(name).dequantize())
    ]
    assert different == ["model.layers.1.mlp.down_proj.weight"]


def test_a_missing_permutation_reads_as_another_weight(
    tiny_llama_dir: Path,
    checkpoint_of: Callable[[Path, str, Path], Checkpoint],
    pack: Callable[[Checkpoint, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gguf_tensors, "interleaved_rows", lambda heads, head_dim: np.arange(heads * head_dim))
    checkpoint = checkpoint_of(tiny_llama_dir, "int4-g32", tmp_path / "checkpoint")
    found = dict(read_weights(pack(checkpoint, tmp_path / "gguf")))
    different = {
        n for n, values in found.items() if not np.array_equal(values, checkpoint.tensor(n).dequantize())
    }
    assert different == {f"model.layers.{layer}.self_attn.{x}_proj.weight" for layer in (0, 1) for x in "qk"}


def test_the_float_copy_holds_the_same_weights(model, export, tmp_path) -> None:
    written = export(model, "int4-g32 int8-g32 int8-g64")
    path = tmp_path / "copy.gguf"
    dequantized_copy(written.path, path)
    header, original = read_header(path), read_header(written.path)
    assert {item.type for item in header.tensors} == {GGMLQuantizationType.F32}
    assert dict(header.metadata) == {**original.metadata, "general.file_type": 0}
    assert len(GGUFReader(path).tensors) == len(original.tensors)
    for (name, values), (copied_name, copied) in zip(
        read_weights(written.path), read_weights(path), strict=True
    ):
        assert name == copied_name
        assert np.array_equal(values, copied)


def test_a_failed_write_leaves_nothing(tiny_llama_dir, export, pack, tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(gguf_format, "check_token_parity", fail)
    with pytest.raises(OSError, match="disk full"):
        pack(export(tiny_llama_dir, "int4-g32").checkpoint, tmp_path / "gguf")
    assert list((tmp_path / "gguf").iterdir()) == []
