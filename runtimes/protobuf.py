"""Protocol buffers in plain Python, as far as reading and rewriting an ONNX graph needs them: no package, no schema.

Fields that nobody looks into are copied as they are. Specification: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

from edgeport.errors import ArtifactError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(field number, the whole field, its payload) of a serialized message; the payload is empty for numbers."""
    for number, _, _, begin, first, end in _walk(message):
        yield number, message[begin:end], message[first:end]


def numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """(field number, value) of the fields that are varints, unsigned."""
    for number, kind, value, _, _, _ in _walk(message):
        if kind == _VARINT:
            yield number, value


def spans(message: bytes | mmap, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, value of a varint or 0, first byte of the payload, its end) in a part of a mapped file; nothing is copied."""
    for number, _, value, _, first, stop in _walk(message, begin, end):
        yield number, value, first, stop


def texts(message: bytes, wanted: int) -> list[str]:
    """Every value of the text field `wanted`."""
    return [text(payload) for number, _, payload in fields(message) if number == wanted]


def text_of(message: bytes, wanted: int) -> str:
    """The first value of the text field `wanted`, empty without one."""
    return next((text(payload) for number, _, payload in fields(message) if number == wanted), "")


def text(raw: bytes) -> str:
    """A name as it is stored; what is no UTF-8 in a damaged file comes back as the same bytes."""
    return raw.decode("utf-8", "surrogateescape")


def varints(payload: bytes) -> list[int]:
    """The values of a packed repeated field."""
    values, at = [], 0
    while at < len(payload):
        value, at = _varint(payload, at)
        values.append(value)
    return values


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _encode(number << 3 | _BYTES) + _encode(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """A varint field of a value that is not negative."""
    return _encode(number << 3 | _VARINT) + _encode(value)


def _walk(
    message: bytes | mmap, at: int = 0, stop: int | None = None
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(number, wire type, value, where the field begins, where its payload begins, where it ends), of all or of at..stop."""
    stop = len(message) if stop is None else stop
    while at < stop:
        begin = at
        key, at = _varint(message, at)
        kind, value, first = key & 7, 0, None
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind == _BYTES:
            size, first = _varint(message, at)
            at = first + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ArtifactError(f"this is no ONNX model: byte {begin} begins no protobuf field")
        if at > stop:
            raise ArtifactError("this is no ONNX model, or it is cut short")
        yield key >> 3, kind, value, begin, at if first is None else first, at


def _varint(message: bytes | mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ArtifactError("this is no ONNX model, or it is cut short")


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded + bytes([value]))
