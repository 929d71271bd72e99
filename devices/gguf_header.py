"""The header of a GGUF file: metadata and the list of tensors, without reading any weight.

The file is mapped, and every length and count in it is compared with what is left of the file before it is used, so that a
damaged or malicious header is refused at once. Specification: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.devices.ggml_types import GGML_TYPES, GgmlType
from edgeport.errors import UsageError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_KEY = 65_535
LONGEST_TENSOR_NAME = 64
KEPT_ELEMENTS = 4096
"""Longer arrays (the vocabulary) are stepped over, and only their length is kept."""
SMALLEST_PAIR_BYTES, SMALLEST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8
MOST_ELEMENTS = 1 << 60
_SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
DEFAULT_ALIGNMENT, LARGEST_ALIGNMENT = 32, 1 << 20


@dataclass(frozen=True, slots=True)
class ArrayLength:
    """What is kept of a long array."""

    count: int


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """sizes: as GGML has them, the input features first."""

    name: str
    sizes: tuple[int, ...]
    kind: GgmlType
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        rows = 1
        for size in self.sizes[1:]:
            rows *= size
        return rows * self.kind.row_bytes(self.sizes[0])


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """data_begin: where in the file offset 0 of the tensors lies."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_begin: int = 0


def read_gguf_header(path: Path, *, whole: bool = True) -> GgufHeader:
    """Raises UsageError for a file that is no GGUF, is damaged or cut short, with what is wrong.

    whole: False also takes a file that ends before its tensors do and types nobody knows (of size 0), for a look at it.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _read(_Cursor(view, path.name, whole=whole))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # mmap of an empty file
        raise UsageError(f"{path} is no GGUF file: {error}") from error


class _Cursor:
    """A position in the mapped file; every read is checked against its end."""

    __slots__ = ("_view", "name", "position", "size", "whole")

    def __init__(self, view: mmap.mmap, name: str, *, whole: bool) -> None:
        self._view = view
        self.name = name
        self.whole = whole
        self.position = 0
        self.size = len(view)

    def fail(self, what: str) -> UsageError:
        return UsageError(
            f"{self.name} is no usable GGUF file: {what}",
            hint="download it again, or convert the model again",
        )

    def skip(self, count: int) -> int:
        """The position before `count` bytes, which must be there."""
        begin = self.position
        if count < 0 or count > self.size - begin:
            raise self.fail(f"{count} bytes are announced at {begin}, the file ends at {self.size}")
        self.position = begin + count
        return begin

    def number(self, code: str) -> Any:
        begin = self.skip(struct.calcsize(code))
        return struct.unpack_from(code, self._view, begin)[0]

    def length(self) -> int:
        return int(self.number("<Q"))

    def skip_texts(self, count: int) -> None:
        """Step over `count` texts; a vocabulary has hundreds of thousands, so this is the one tight loop."""
        view, position, last = self._view, self.position, self.size - 8
        read = struct.Struct("<Q").unpack_from
        for _ in range(count):
            if position > last:
                raise self.fail(f"{count} texts are announced, the file ends at {self.size}")
            position += 8 + read(view, position)[0]
        self.position = min(position, self.size)
        self.skip(position - self.position)

    def text(self, longest: int) -> str:
        length = self.length()
        if length > longest:
            raise self.fail(f"a text of {length} bytes at {self.position}, at most {longest} are allowed")
        begin = self.skip(length)
        return self._view[begin : begin + length].decode("utf-8", errors="replace")


def _read(cursor: _Cursor) -> GgufHeader:
    if cursor.size < len(MAGIC) or cursor.number("<4s") != MAGIC:
        raise cursor.fail("it does not begin with GGUF")
    version = cursor.number("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise cursor.fail("it is big-endian" if swapped else f"version {version}, read are 2 and 3")
    tensor_count, pair_count = cursor.length(), cursor.length()
    smallest = tensor_count * SMALLEST_TENSOR_BYTES + pair_count * SMALLEST_PAIR_BYTES
    if smallest > cursor.size:
        raise cursor.fail(
            f"{tensor_count} tensors and {pair_count} keys need at least {smallest} bytes, the file has {cursor.size}"
        )
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.text(LONGEST_KEY)
        if not key or key in metadata:
            raise cursor.fail(f"the key {key!r:.80} is empty or there twice")
        metadata[key] = _value(cursor, cursor.number("<I"))
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    return GgufHeader(metadata, tensors, _check_places(cursor, metadata, tensors))


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text(cursor.size)
    if kind != _ARRAY:
        raise cursor.fail(f"a value of the unknown type {kind} at {cursor.position}")
    element, count = cursor.number("<I"), cursor.length()
    if element in _SCALARS:
        return _numbers(cursor, _SCALARS[element], count)
    if element != _STRING:
        raise cursor.fail(f"an array of type {element} at {cursor.position}; arrays of arrays are not read")
    if count > (cursor.size - cursor.position) // 8:
        raise cursor.fail(f"an array of {count} texts at {cursor.position}, the file ends at {cursor.size}")
    cursor.skip_texts(count)
    return ArrayLength(count)


def _numbers(cursor: _Cursor, code: str, count: int) -> tuple[Any, ...] | ArrayLength:
    if count > KEPT_ELEMENTS:
        cursor.skip(count * struct.calcsize(code))
        return ArrayLength(count)
    return tuple(cursor.number(code) for _ in range(count))


def _tensor(cursor: _Cursor) -> GgufTensor:
    name = cursor.text(LONGEST_TENSOR_NAME)
    dimensions = cursor.number("<I")
    if not 1 <= dimensions <= 4:
        raise cursor.fail(f"tensor {name!r} has {dimensions} dimensions")
    sizes = tuple(cursor.length() for _ in range(dimensions))
    number, offset = cursor.number("<I"), cursor.length()
    kind = GGML_TYPES.get(number)
    if kind is None and not cursor.whole:
        kind = GgmlType(f"type {number}", 1, 0)
    if kind is None:
        raise cursor.fail(f"tensor {name!r} has the unknown type {number}")
    elements = 1
    for size in sizes:
        elements *= size
    if not 0 < elements < MOST_ELEMENTS or sizes[0] % kind.block:
        raise cursor.fail(f"tensor {name!r} of type {kind.name} has the sizes {list(sizes)}")
    return GgufTensor(name, sizes, kind, offset)


def _check_places(cursor: _Cursor, metadata: Mapping[str, Any], tensors: tuple[GgufTensor, ...]) -> int:
    """Names are unique, and every tensor's bytes lie inside the file. Returns where the tensors' data begin."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or not 0 < alignment <= LARGEST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise cursor.fail(f"general.alignment is {alignment!r:.40}, it must be a power of two")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise cursor.fail("two tensors have the same name")
    begin: int = -(-cursor.position // alignment) * alignment
    for tensor in tensors if cursor.whole else ():
        end = begin + tensor.offset_bytes + tensor.size_bytes
        if tensor.offset_bytes % alignment or end > cursor.size:
            raise cursor.fail(
                f"tensor {tensor.name!r} ends at {end}, the file at {cursor.size}: it is damaged or cut short"
            )
    return begin
