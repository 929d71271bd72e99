"""Read and write safetensors files without loading them: memory-mapped reads, streamed writes.

Specification: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the bytes.
The `safetensors` package has no numpy bfloat16 and no streaming writer, which a model larger than memory needs.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100 << 20
_MOST_DIMENSIONS, _MOST_ELEMENTS = 16, 1 << 60
_HINT = "the file is truncated or damaged; fetch it again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One line of a header; `start` and `stop` are absolute file offsets in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Parse and check a header: known dtypes, sizes that agree with shapes, nothing outside the file.

    Raises UsageError naming the file and the tensor.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(size_bytes - 8, _MAX_HEADER_BYTES):
            raise UsageError(
                f"{path} is not a safetensors file: header length {length}, file {size_bytes} bytes",
                hint=_HINT,
            )
        try:
            header = json.loads(stream.read(length), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} has a damaged safetensors header: {error}", hint=_HINT) from error
    if not isinstance(header, dict):
        raise UsageError(
            f"{path} has a damaged safetensors header: {type(header).__name__} instead of an object",
            hint=_HINT,
        )
    return {
        name: _entry(path, name, item, data_start=8 + length, size_bytes=size_bytes)
        for name, item in header.items()
        if name != "__metadata__"
    }


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The specification forbids duplicate names; json.loads would keep the last one silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} comes twice")
    return found


def _entry(path: Path, name: str, item: dict[str, Any], *, data_start: int, size_bytes: int) -> TensorEntry:
    try:
        dtype, shape = str(item["dtype"]), tuple(int(size) for size in item["shape"])
        start, stop = (data_start + int(offset) for offset in item["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{path}: the header of tensor {name} is damaged: {item!r:.200}", hint=_HINT
        ) from error
    if len(shape) > _MOST_DIMENSIONS or max(map(abs, shape), default=0) >= _MOST_ELEMENTS:
        raise UsageError(
            f"{path}: the header of tensor {name} is damaged: its shape is {shape!r:.80}", hint=_HINT
        )
    if dtype not in DTYPES:
        raise UsageError(f"{path}: tensor {name} has dtype {dtype}", hint=f"readable are {', '.join(DTYPES)}")
    expected = DTYPES[dtype].itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or stop - start != expected or start < data_start or stop > size_bytes:
        raise UsageError(
            f"{path}: tensor {name} {dtype}{list(shape)} needs {expected} bytes, the file holds bytes {start}..{stop} of {size_bytes}",
            hint=_HINT,
        )
    return TensorEntry(name, dtype, shape, start, stop)


class SafetensorsFile:
    """One memory-mapped file. Arrays returned are read-only views; they keep the mapping alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read_header(path)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def tensor(self, name: str) -> Array:
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        count = (entry.stop - entry.start) // dtype.itemsize
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=entry.start).reshape(entry.shape)

    def release(self, name: str) -> None:
        """Drop the pages of one tensor from this process, so that resident memory stays one tensor high."""
        entry = self.entries[name]
        start = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = entry.stop - start
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, length)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor that will be written: the header needs every shape before the first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize * int(np.prod(self.shape, dtype=np.int64))


class SafetensorsWriter:
    """Stream tensors to one file in the planned order; the file is renamed into place by `close`."""

    def __init__(self, path: Path, plan: Sequence[TensorPlan]) -> None:
        self.path = path
        self._temporary = path.with_name(path.name + ".part")
        self._pending = list(plan)
        self._stream: BinaryIO = self._temporary.open("wb")
        self._stream.write(_header_bytes(plan))

    def write(self, name: str, array: Array) -> None:
        """Append the next planned tensor. Raises ValueError when name, dtype or shape are not what was planned."""
        self.write_rows(name, (array,))

    def write_rows(self, name: str, pieces: Iterable[Array]) -> None:
        """Append the next planned tensor, given as consecutive pieces along its first axis."""
        if not self._pending or self._pending[0].name != name:
            expected = self._pending[0].name if self._pending else "nothing more"
            raise ValueError(f"{self.path.name}: expected {expected}, got {name}")
        plan = self._pending.pop(0)
        rows = 0
        for piece in pieces:
            if piece.shape[1:] != plan.shape[1:] or _NAMES.get(piece.dtype) != plan.dtype:
                raise ValueError(
                    f"{name}: planned {plan.dtype}{list(plan.shape)}, got {piece.dtype}{list(piece.shape)}"
                )
            rows += piece.shape[0]
            # A bfloat16 array has no buffer protocol: hand the bytes over as uint8.
            self._stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        if rows != plan.shape[0]:
            raise ValueError(f"{name}: planned {plan.shape[0]} rows, got {rows}")

    def close(self) -> None:
        self._stream.close()
        if self._pending:
            self._temporary.unlink()
            raise ValueError(f"{self.path.name}: {len(self._pending)} planned tensors were not written")
        self._temporary.replace(self.path)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stream.close()
            self._temporary.unlink(missing_ok=True)


def _header_bytes(plan: Iterable[TensorPlan]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for item in plan:
        stop = offset + item.size_bytes
        header[item.name] = {"dtype": item.dtype, "shape": list(item.shape), "data_offsets": [offset, stop]}
        offset = stop
    body = json.dumps(header, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body)) + body


class SafetensorsFolder:
    """All `*.safetensors` of a folder as one lazy mapping name -> array."""

    def __init__(self, directory: Path) -> None:
        paths = sorted(directory.glob("*.safetensors"))
        if not paths:
            raise UsageError(
                f"no *.safetensors file in {directory}",
                hint="weights are read from safetensors only; save the model with save_pretrained()",
            )
        self.paths = tuple(paths)
        self._where: dict[str, SafetensorsFile] = {}
        for path in paths:
            file = SafetensorsFile(path)
            for name in file.entries:
                if name in self._where:
                    raise UsageError(
                        f"tensor {name} is both in {self._where[name].path.name} and in {path.name}",
                        hint="keep one copy of the weights in the folder",
                    )
                self._where[name] = file

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def entry(self, name: str) -> TensorEntry:
        return self._where[name].entries[name]

    def tensor(self, name: str) -> Array:
        return self._where[name].tensor(name)

    def release(self, name: str) -> None:
        self._where[name].release(name)
