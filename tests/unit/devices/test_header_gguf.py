"""GGUF headers: what the gguf package wrote is read back; what is damaged is refused at once."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter

from edgeport.devices.ggml_types import GGML_TYPES
from edgeport.devices.gguf_header import ArrayLength, read_gguf_header
from edgeport.devices.gguf_shape import shape_from_gguf
from edgeport.errors import UsageError

VOCABULARY = 5000
SECONDS = 1.0
"""Of a machine that does other things at the same time; a check that came too late would take minutes or all memory."""


def write_model(path: Path, architecture: str = "llama", **changes: Any) -> Path:
    """Two layers with grouped-query attention, random weights in Q4_0, Q8_0 and F32."""
    writer = GGUFWriter(path, architecture)
    settings = {
        "block_count": 2, "context_length": 512, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2,
    } | changes  # fmt: skip
    for key, value in settings.items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"token {index}" for index in range(VOCABULARY)])
    writer.add_array("tokenizer.ggml.scores", [float(index) for index in range(VOCABULARY)])
    add(writer, "token_embd.weight", (VOCABULARY, 64), GGMLQuantizationType.Q8_0)
    for layer in range(2):
        for name, shape in (
            ("attn_q", (64, 64)), ("attn_k", (32, 64)), ("attn_v", (32, 64)), ("attn_output", (64, 64)),
            ("ffn_gate", (96, 64)), ("ffn_up", (96, 64)), ("ffn_down", (64, 96)),
        ):  # fmt: skip
            add(writer, f"blk.{layer}.{name}.weight", shape, GGMLQuantizationType.Q4_0)
        add(writer, f"blk.{layer}.attn_norm.weight", (64,), GGMLQuantizationType.F32)
        add(writer, f"blk.{layer}.attn_q.bias", (64,), GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> None:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row = shape[-1] // block * block_bytes
    data = np.zeros((*shape[:-1], row), np.uint8)
    writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=kind)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_tensors_are_those_the_gguf_package_reads(model: Path) -> None:
    header = read_gguf_header(model)
    reader = GGUFReader(model)
    expected = {item.name: (tuple(map(int, item.shape)), int(item.n_bytes)) for item in reader.tensors}
    assert {item.name: (item.sizes, item.size_bytes) for item in header.tensors} == expected
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayLength(VOCABULARY)
    assert header.metadata["general.architecture"] == "llama"


def test_block_sizes_are_ggmls() -> None:
    """Q8_1 is never in a file, and the gguf package has an older layout of it."""
    for kind, sizes in GGML_QUANT_SIZES.items():
        if kind is not GGMLQuantizationType.Q8_1:
            assert (GGML_TYPES[int(kind)].block, GGML_TYPES[int(kind)].block_bytes) == sizes, kind.name


def test_the_shape_has_roles_bits_and_caches(model: Path) -> None:
    shape = shape_from_gguf(model)
    assert (shape.family, shape.layers, shape.heads, shape.head_dim) == ("llama", 2, 4, 16)
    assert shape.tied_embeddings and shape.vocab_size == VOCABULARY
    attention, feed_forward = 64 * 64 * 2 + 32 * 64 * 2, 3 * 64 * 96
    assert shape.parameters_of(["linear"]) == 2 * (attention + feed_forward)
    assert shape.parameters_of(["norm"]) == shape.parameters_of(["bias"]) == 2 * 64
    assert {tensor.bits for tensor in shape.tensors if tensor.role == "linear"} == {4.5}
    assert [(cache.kv_heads, cache.key_dim, cache.window) for cache in shape.caches] == [(2, 16, None)] * 2


def test_windows_slide_as_llama_cpp_has_them(tmp_path: Path) -> None:
    settings = {"attention.sliding_window": 128, "attention.key_length": 16, "attention.value_length": 16}
    sliding = shape_from_gguf(write_model(tmp_path / "gemma2.gguf", "gemma2", **settings))
    assert [cache.window for cache in sliding.caches] == [128, None]
    ignored = shape_from_gguf(write_model(tmp_path / "phi3.gguf", "phi3", **settings))
    assert [cache.window for cache in ignored.caches] == [None, None]


def test_heads_of_each_layer_are_read(tmp_path: Path) -> None:
    path = write_model(tmp_path / "deci.gguf", "deci", **{"attention.head_count_kv": [2, 1]})
    assert [cache.kv_heads for cache in shape_from_gguf(path).caches] == [2, 1]


def test_a_split_file_is_whole_or_refused(model: Path, tmp_path: Path) -> None:
    part = tmp_path / "tiny-00001-of-00002.gguf"
    part.write_bytes(model.read_bytes())
    with pytest.raises(UsageError, match="tiny-00002-of-00002.gguf is missing"):
        shape_from_gguf(part)


def replaced(offset: int, content: bytes) -> Callable[[bytes], bytes]:
    return lambda file: file[:offset] + content + file[offset + len(content) :]


def header(tensors: int = 0, pairs: int = 0, rest: bytes = b"", version: int = 3) -> Callable[[bytes], bytes]:
    return lambda _: b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def tensor(sizes: tuple[int, ...], kind: int = 0, offset: int = 0, name: bytes = b"x") -> bytes:
    packed = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return struct.pack("<Q", len(name)) + name + packed + struct.pack("<IQ", kind, offset) + bytes(64)


HUGE = 2**63
ARRAY = struct.pack("<IQ", 8, HUGE)
NESTED = struct.pack("<IQ", 9, 1) * 1000
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "no GGUF|GGUF file"),
    "three bytes": (lambda file: file[:3], "GGUF"),
    "magic": (replaced(0, b"GGML"), "does not begin with GGUF"),
    "version 1": (replaced(4, struct.pack("<I", 1)), "version 1"),
    "version 99": (replaced(4, struct.pack("<I", 99)), "version 99"),
    "big-endian": (replaced(4, struct.pack(">I", 3)), "big-endian"),
    "many tensors": (replaced(8, struct.pack("<Q", HUGE)), "need at least"),
    "many keys": (replaced(16, struct.pack("<Q", 2**40)), "need at least"),
    "half": (lambda file: file[: len(file) // 2], "cut short"),
    "last byte": (lambda file: file[:-1], "cut short"),
    "end of the header": (lambda file: file[:60], "need at least"),
    "key length": (header(0, 1, struct.pack("<Q", HUGE) + bytes(64)), "at most"),
    "text length": (header(0, 1, key(b"a", 8, struct.pack("<Q", HUGE)) + bytes(64)), "at most"),
    "array of texts": (header(0, 1, key(b"a", 9, ARRAY) + bytes(64)), "array of"),
    "array of numbers": (header(0, 1, key(b"a", 9, struct.pack("<IQ", 4, HUGE)) + bytes(64)), "announced"),
    "nested arrays": (header(0, 1, key(b"a", 9, NESTED)), "arrays of arrays"),
    "unknown type": (header(0, 1, key(b"a", 77, bytes(64))), "unknown type 77"),
    "twice": (header(0, 2, key(b"a", 0, b"1") * 2 + bytes(64)), "there twice"),
    "no dimension": (header(1, 0, tensor(())), "0 dimensions"),
    "five dimensions": (header(1, 0, tensor((1, 1, 1, 1, 1))), "5 dimensions"),
    "zero size": (header(1, 0, tensor((0, 4))), "sizes"),
    "overflow": (header(1, 0, tensor((2**62, 2**62, 2**62, 2**62))), "sizes"),
    "not a multiple": (header(1, 0, tensor((33, 4), kind=2)), "sizes"),
    "tensor type": (header(1, 0, tensor((32,), kind=5)), "unknown type 5"),
    "offset": (header(1, 0, tensor((4,), offset=7)), "damaged or cut short"),
    "beyond the end": (header(1, 0, tensor((4,), offset=2**62)), "damaged or cut short"),
    "two of a name": (header(2, 0, tensor((1,))[:-64] * 2 + bytes(64)), "same name"),
    "alignment": (header(0, 1, key(b"general.alignment", 4, struct.pack("<I", 3)) + bytes(8)), "power of two"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused_at_once(case: str, model: Path, tmp_path: Path) -> None:
    damage, reason = DAMAGED[case]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(model.read_bytes()))
    start = time.process_time()
    with pytest.raises(UsageError, match=reason):
        read_gguf_header(path)
    assert time.process_time() - start < SECONDS


def test_a_file_that_ends_early_can_be_looked_at(model: Path, tmp_path: Path) -> None:
    expected, path = read_gguf_header(model), tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes()[: expected.data_begin + 100])
    assert read_gguf_header(path, whole=False) == expected
    with pytest.raises(UsageError, match="cut short"):
        read_gguf_header(path)
    path.write_bytes(header(1, 0, tensor((32,), kind=31))(b""))
    assert read_gguf_header(path, whole=False).tensors[0].kind.name == "type 31"


def test_where_the_tensors_begin(model: Path) -> None:
    found, reader = read_gguf_header(model), GGUFReader(model)
    places = {item.name: found.data_begin + item.offset_bytes for item in found.tensors}
    assert places == {item.name: int(item.data_offset) for item in reader.tensors}


def test_no_byte_of_the_header_can_be_changed_into_a_crash(model: Path, tmp_path: Path) -> None:
    """Each byte up to the vocabulary, set to its extremes: read or refused, nothing else."""
    content, path = bytearray(model.read_bytes()), tmp_path / "fuzzed.gguf"
    refused = 0
    for offset in range(0, 700, 8):
        for value in (0x00, 0x7F, 0xFF):
            changed = bytes(content[:offset]) + bytes([value]) + bytes(content[offset + 1 :])
            path.write_bytes(changed)
            try:
                shape_from_gguf(path)
            except UsageError:
                refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention.head_count_kv": [2, 1, 1]}, "must have 2 entries"),
        ({"block_count": 1}, "beyond its block_count"),
        ({"block_count": 0}, "a block_count of 0"),
        ({"block_count": 2**31 - 1}, "a block_count of 2147483647"),
    ],
)
def test_metadata_that_does_not_fit_the_tensors(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        shape_from_gguf(write_model(tmp_path / "odd.gguf", **change))
