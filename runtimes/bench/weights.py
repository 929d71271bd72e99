"""The bytes each tensor takes inside a container, read from its header without the engine's package.

The roofline needs to know what is read for each token, and a device has no exporter and often only one engine. Only
headers are read. Bytes named twice (a tied head over its embedding) are counted once, under the name that reads them all.
Specs: ggml docs/gguf.md; onnx/onnx.proto3 (fields below); OpenVINO IR `Const` layers; the safetensors header.
"""

from __future__ import annotations

import json
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from edgeport.errors import ArtifactError

EMBEDDING = re.compile(r"embed_tokens|token_embd|\bwte\b")
HEAD = re.compile(r"lm_head|^output\.weight$")
LONGEST_NAME = 1 << 16
LONGEST_SAFETENSORS_HEADER = 100_000_000
ROTARY_TABLE = re.compile(r"(cos|sin)_cache|rope_freqs|rotary")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    name: str
    size_bytes: int
    place: str
    """File and offset: two tensors at one place are one piece of memory."""


def read_tensors(format_name: str, entry_point: Path) -> tuple[StoredTensor, ...]:
    """Every constant of the container. Raises ArtifactError for an unknown format or a damaged header."""
    reader = READERS.get(format_name)
    if reader is None:
        raise ArtifactError(
            f"cannot list the tensors of a '{format_name}' container", hint=f"known: {', '.join(READERS)}"
        )
    try:
        return tuple(reader(entry_point))
    except (OSError, ValueError, KeyError, struct.error, IndexError, ElementTree.ParseError) as error:
        raise ArtifactError(f"the tensor list of {entry_point} cannot be read: {error}") from error


def bytes_read_per_token(tensors: Iterable[StoredTensor]) -> int:
    """Weights that decoding one token has to read: all but lookup tables, of which it reads one row.

    The embedding counts in full when it is also the head: no tensor of the head's own, or one over the same bytes. The
    row of a lookup table is left out; it is a thousandth of a percent.
    """
    stored = tuple(tensors)
    embedding = {tensor.place for tensor in stored if EMBEDDING.search(tensor.name)}
    has_own_head = any(HEAD.search(tensor.name) and tensor.place not in embedding for tensor in stored)
    places: dict[str, int] = {}
    for tensor in stored:
        is_lookup = ROTARY_TABLE.search(tensor.name) or (has_own_head and tensor.place in embedding)
        if not is_lookup:
            places[tensor.place] = max(places.get(tensor.place, 0), tensor.size_bytes)
    return sum(places.values())


def _gguf(path: Path) -> Iterator[StoredTensor]:
    with path.open("rb") as stream:
        magic, version, tensor_count, key_count = struct.unpack("<4sIQQ", stream.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"not a GGUF file of version 2 or 3: {magic!r} version {version}")
        alignment = 32
        for _ in range(key_count):
            key, value = _gguf_string(stream), _gguf_value(stream, _number(stream, "<I"))
            if key == "general.alignment" and value is not None:
                alignment = value
        offsets = []
        for _ in range(tensor_count):
            name = _gguf_string(stream)
            stream.seek(8 * _number(stream, "<I") + 4, 1)  # dimensions and element type
            offsets.append((_number(stream, "<Q"), name))
        data_start = -(-stream.tell() // alignment) * alignment
    offsets.sort()
    # a tensor ends where the next begins: less than `alignment` bytes of padding are counted with it
    ends = [offset for offset, _ in offsets[1:]] + [path.stat().st_size - data_start]
    for (offset, name), end in zip(offsets, ends, strict=True):
        yield StoredTensor(name, end - offset, f"{path.name}@{offset}")


_GGUF_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


def _gguf_value(stream: BinaryIO, kind: int) -> int | None:
    """An integer value, or None after skipping anything else."""
    if kind == _GGUF_STRING:
        stream.seek(_number(stream, "<Q"), 1)
        return None
    if kind == _GGUF_ARRAY:
        item, count = _number(stream, "<I"), _number(stream, "<Q")
        if item in _GGUF_SCALARS:
            stream.seek(count * struct.calcsize(_GGUF_SCALARS[item]), 1)
            return None
        for _ in range(count):
            _gguf_value(stream, item)
        return None
    value = _number(stream, _GGUF_SCALARS[kind])
    return value if isinstance(value, int) else None


def _gguf_string(stream: BinaryIO) -> str:
    return _piece(stream, LONGEST_NAME).decode("utf-8", errors="replace")


def _piece(stream: BinaryIO, limit: int) -> bytes:
    """Bytes after their length; a damaged length must not ask for the memory it claims."""
    length = _number(stream, "<Q")
    if length > limit:
        raise ValueError(f"a length of {length} bytes, at most {limit} are possible")
    return stream.read(length)


def _number(stream: BinaryIO, layout: str) -> int:
    value: int = struct.unpack(layout, stream.read(struct.calcsize(layout)))[0]
    return value


# field numbers of onnx.proto3
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = 8, 9, 13


def _onnx(path: Path) -> Iterator[StoredTensor]:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        for number, start, end in _messages(view, 0, len(view)):
            if number != _MODEL_GRAPH:
                continue
            for item, first, last in _messages(view, start, end):
                if item == _GRAPH_INITIALIZER:
                    yield _onnx_tensor(view, first, last, path.name)


def _onnx_tensor(view: mmap.mmap, start: int, end: int, file: str) -> StoredTensor:
    name, size, place = "", 0, f"{file}@{start}"
    external = {}
    for number, first, last in _messages(view, start, end):
        if number == _TENSOR_NAME:
            name = view[first:last].decode()
        elif number == _TENSOR_RAW:
            size = last - first
        elif number == _TENSOR_EXTERNAL:
            pair = {key: view[a:b].decode() for key, a, b in _messages(view, first, last)}
            external[pair[1]] = pair.get(2, "")
    if external:
        size, place = int(external["length"]), f"{external['location']}@{external.get('offset', '0')}"
    return StoredTensor(name, size, place)


def _messages(view: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Length-delimited fields of one protobuf message as (field number, first byte, end); other fields are skipped."""
    while start < end:
        key, start = _varint(view, start)
        wire = key & 7
        if wire == 0:
            _, start = _varint(view, start)
        elif wire == 2:
            length, start = _varint(view, start)
            if start + length > end:
                raise ValueError("a field runs past its message")
            yield key >> 3, start, start + length
            start += length
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {start}")


def _varint(view: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start


def _openvino(path: Path) -> Iterator[StoredTensor]:
    for _, layer in ElementTree.iterparse(path):
        if layer.tag == "layer" and layer.get("type") == "Const":
            data = layer.find("data")
            if data is not None:
                offset, size = data.attrib["offset"], int(data.attrib["size"])
                yield StoredTensor(layer.get("name", ""), size, f"{path.stem}.bin@{offset}")


def _safetensors(path: Path) -> Iterator[StoredTensor]:
    folder = path if path.is_dir() else path.parent
    for file in [path] if path.suffix == ".safetensors" else sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(_piece(stream, LONGEST_SAFETENSORS_HEADER))
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                yield StoredTensor(name, last - first, f"{file.name}@{first}")


READERS: dict[str, Callable[[Path], Iterator[StoredTensor]]] = {
    "gguf": _gguf,
    "onnx": _onnx,
    "openvino": _openvino,
    "safetensors": _safetensors,
}
