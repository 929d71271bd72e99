"""Parse a GGUF header by hand, with every length checked against the file.

Specification: ggml's docs/gguf.md, version 3, little-endian: magic, version, counts, key-values, tensor infos, then
tensor data from the next multiple of `general.alignment`. Written apart from the writer and from the `gguf` package, whose
reader takes seconds for a large vocabulary and does not say which tensor a truncated file ends in.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgeport.errors import ArtifactError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
_STRING, _ARRAY = 8, 9
_KEPT_ELEMENTS = 1024
"""More than a model has layers, less than it has tokens."""
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in numpy order (rows first), `start` and `stop` absolute file offsets in bytes."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """metadata: scalars, strings and short arrays of integers (others are only walked over). value_offsets: where each value starts.

    metadata_range: the file bytes of all key-values, `metadata_count` of them.
    """

    path: Path
    metadata: Mapping[str, Any]
    value_offsets: Mapping[str, int]
    metadata_count: int
    metadata_range: tuple[int, int]
    alignment: int
    tensors: tuple[TensorInfo, ...]

    def text(self, key: str) -> str:
        return str(self._value(key))

    def integer(self, key: str, layer: int = 0) -> int:
        """A number, or entry `layer` of an array with one per layer. Raises ArtifactError when there is none."""
        value = self._value(key)
        if not isinstance(value, tuple):
            return int(value)
        if layer >= len(value):
            raise ArtifactError(f"{self.path}: {key} has {len(value)} entries, none for layer {layer}")
        return int(value[layer])

    def _value(self, key: str) -> Any:
        if key not in self.metadata:
            raise ArtifactError(
                f"{self.path} has no key {key}", hint="the file is damaged or of another kind"
            )
        return self.metadata[key]


def read_header(path: Path) -> GgufHeader:
    """Raises ArtifactError naming the file, and the key or tensor where it stops making sense."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read as GGUF: {error}") from error


class _Cursor:
    """Reads little-endian values one after the other; `where` names what is being read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self.where = "the header"

    def take(self, code: str) -> Any:
        size = struct.calcsize(code)
        self.need(size)
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += size
        return value

    def string(self) -> str:
        length = self.take("Q")
        self.need(length)
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a text is not UTF-8") from error

    def array(self) -> tuple[int, ...] | None:
        """A short array of integers; anything else is walked over."""
        kind, count = self.take("I"), self.take("Q")
        if kind in _SCALARS:
            size = count * struct.calcsize("<" + _SCALARS[kind])
            self.need(size)
            start, self.at = self.at, self.at + size
            if kind not in _INTEGERS or count > _KEPT_ELEMENTS:
                return None
            return struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, start)
        if kind != _STRING:
            raise self.damaged(f"an array has element type {kind}")
        unpack, data, size = struct.Struct("<Q").unpack_from, self.data, len(self.data)
        at = self.at
        for _ in range(count):
            if at + 8 > size:
                raise self.damaged("it ends there")
            at += 8 + unpack(data, at)[0]
        self.at = at
        self.need(0)
        return None

    def need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise self.damaged("it ends there")

    def damaged(self, reason: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path} is damaged in {self.where}: {reason}",
            hint="export the model again, or copy the file again",
        )


def _parse(path: Path, data: mmap.mmap) -> GgufHeader:
    cursor = _Cursor(path, data)
    if data[:4] != b"GGUF":
        raise ArtifactError(f"{path} is not a GGUF file: it starts with {data[:4]!r}")
    cursor.at = 4
    version, tensor_count, metadata_count = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    if version != 3:
        raise ArtifactError(f"{path} is GGUF version {version}, readable is 3")
    start = cursor.at
    metadata, value_offsets = _read_metadata(cursor, metadata_count)
    metadata_range = (start, cursor.at)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment not in (1 << power for power in range(3, 21)):
        raise cursor.damaged(f"general.alignment is {alignment!r}")
    raw = [_read_tensor_info(cursor, number) for number in range(tensor_count)]
    data_start = -(-cursor.at // alignment) * alignment
    tensors = tuple(_checked(cursor, item, data_start, alignment) for item in raw)
    return GgufHeader(path, metadata, value_offsets, metadata_count, metadata_range, alignment, tensors)


def _read_metadata(cursor: _Cursor, count: int) -> tuple[dict[str, Any], dict[str, int]]:
    metadata: dict[str, Any] = {}
    offsets: dict[str, int] = {}
    for number in range(count):
        cursor.where = f"key {number + 1} of {count}"
        key, kind = cursor.string(), cursor.take("I")
        cursor.where = f"key {key}"
        offsets[key] = cursor.at
        if kind in _SCALARS:
            metadata[key] = cursor.take(_SCALARS[kind])
        elif kind == _STRING:
            metadata[key] = cursor.string()
        elif kind == _ARRAY:
            values = cursor.array()
            if values is not None:
                metadata[key] = values
        else:
            raise cursor.damaged(f"value type {kind} does not exist")
    return metadata, offsets


def _read_tensor_info(cursor: _Cursor, number: int) -> tuple[str, tuple[int, ...], int, int]:
    cursor.where = f"the entry of tensor {number + 1}"
    name, dimensions = cursor.string(), cursor.take("I")
    cursor.where = f"the entry of tensor {name}"
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"it has {dimensions} dimensions")
    shape = tuple(reversed([cursor.take("Q") for _ in range(dimensions)]))
    return name, shape, cursor.take("I"), cursor.take("Q")


def _checked(
    cursor: _Cursor, item: tuple[str, tuple[int, ...], int, int], data_start: int, alignment: int
) -> TensorInfo:
    name, shape, kind, offset = item
    cursor.where = f"tensor {name}"
    try:
        ggml_type = GGMLQuantizationType(kind)
    except ValueError as error:
        raise cursor.damaged(f"its type {kind} does not exist") from error
    block, block_bytes = GGML_QUANT_SIZES[ggml_type]
    count = 1
    for size in shape:
        count *= size
    start = data_start + offset
    stop = start + count // block * block_bytes
    if count == 0 or shape[-1] % block or offset % alignment:
        raise cursor.damaged(f"{ggml_type.name} of shape {list(shape)} at offset {offset} cannot be")
    if stop > len(cursor.data):
        raise cursor.damaged(f"it needs the bytes {start} to {stop}, the file has {len(cursor.data)}")
    return TensorInfo(name, shape, ggml_type, start, stop)
