"""The external data file of an ONNX model: tensors are streamed to it once, and initializers point into it.

Two initializers may name the same bytes: a tied head and its embedding differ in shape, not in content.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx

_ELEMENT_TYPES = {
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int64": onnx.TensorProto.INT64,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float32": onnx.TensorProto.FLOAT,
}
_INLINE_BYTES = 1024
# A large tensor starts on a page so that onnxruntime can map it; small ones would waste most of a page.
_PAGE_BYTES, _SMALL_ALIGNMENT, _LARGE_TENSOR_BYTES = 4096, 64, 1 << 20


class ExternalData:
    """Appends tensors to `path` and hands out the initializers that describe them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.initializers: list[onnx.TensorProto] = []
        self._stream: BinaryIO = path.open("wb")

    def add(self, name: str, parts: Sequence[npt.NDArray[Any]], shape: Sequence[int]) -> str:
        """Append `parts` one after the other as one tensor; returns `name`."""
        kind = _ELEMENT_TYPES[parts[0].dtype.name]
        size_bytes = sum(part.nbytes for part in parts)
        if size_bytes <= _INLINE_BYTES:
            body = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
            self.initializers.append(onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=body))
            return name
        offset = self._align(_PAGE_BYTES if size_bytes >= _LARGE_TENSOR_BYTES else _SMALL_ALIGNMENT)
        for part in parts:
            self._stream.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        self.initializers.append(self._external(name, kind, shape, (offset, size_bytes)))
        return name

    def alias(self, name: str, of: str, shape: Sequence[int]) -> str:
        """A second initializer over the bytes of `of`, with another shape."""
        original = next(item for item in self.initializers if item.name == of)
        twin = onnx.TensorProto()
        twin.CopyFrom(original)
        twin.name = name
        del twin.dims[:]
        twin.dims.extend(shape)
        self.initializers.append(twin)
        return name

    def _align(self, alignment: int) -> int:
        self._stream.write(b"\0" * (-self._stream.tell() % alignment))
        return self._stream.tell()

    def _external(
        self, name: str, kind: int, shape: Sequence[int], extent: tuple[int, int]
    ) -> onnx.TensorProto:
        tensor = onnx.TensorProto(
            name=name, data_type=kind, dims=shape, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (
            ("location", self.path.name),
            ("offset", str(extent[0])),
            ("length", str(extent[1])),
        ):
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
        return tensor

    def __enter__(self) -> ExternalData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
