"""Read a folder of safetensors into float32, packed or plain, with numpy alone.

Layouts: plain F32/F16/BF16 tensors, and compressed-tensors' `pack-quantized`: for a module X
    X.weight_packed  I32 [out, in * bits / 32], low bits first; the stored number is code + 2**(bits - 1)
    X.weight_scale   [out, in / group]
    X.weight_shape   I64 [2]
Specs: https://huggingface.co/docs/safetensors (format), compressed-tensors `compressors/pack_quantized`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.devices.safetensors_header import read_safetensors_header
from edgeport.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]
_DTYPES = {
    "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int


class SafetensorsReader:
    """Tensors by name over all `*.safetensors` of a folder; memory-mapped, decoded when asked for."""

    def __init__(self, folder: Path) -> None:
        self._entries: dict[str, _Entry] = {}
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise ArtifactError(
                f"no *.safetensors in {folder}", hint="give the folder that holds config.json and the weights"
            )
        for path in paths:
            self._entries.update(_read_header(path))
        self._check_index(folder)

    def __contains__(self, weight: str) -> bool:
        return weight in self._entries or f"{weight}_packed" in self._entries

    def shape(self, weight: str) -> tuple[int, ...]:
        """The shape of a weight, packed or plain."""
        if f"{weight}_packed" in self._entries:
            return tuple(int(size) for size in self._stored(f"{weight}_shape"))
        return self._stored(weight).shape

    def read(self, weight: str, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """`X.weight` (or a bias) as float32, dequantized when it is packed; `rows` picks some of its first axis."""
        if f"{weight}_packed" in self._entries:
            return self._read_packed(weight, rows)
        stored = self._stored(weight)[rows]
        if stored.dtype.kind not in "fu" or stored.dtype.itemsize == 1:
            raise ArtifactError(
                f"{weight} is stored as {stored.dtype}, which is neither a float nor pack-quantized"
            )
        return _to_float32(stored)

    def _read_packed(self, weight: str, rows: slice) -> npt.NDArray[np.float32]:
        words, scales = self._stored(f"{weight}_packed"), self._stored(f"{weight}_scale")
        count, columns = self.shape(weight)
        bits, remainder = divmod(32 * words.shape[1], columns)
        if bits not in (2, 4, 8) or remainder or words.shape[0] != count or columns % scales.shape[1]:
            raise ArtifactError(
                f"{weight}: packed {words.shape} and scales {scales.shape} do not make [{count}, {columns}]"
            )
        codes = _unpack(words[rows], bits, columns)
        blocks = codes.reshape(codes.shape[0], scales.shape[1], -1)
        return (blocks * _to_float32(scales[rows])[:, :, None]).reshape(codes.shape)

    def _stored(self, name: str) -> Array:
        try:
            entry = self._entries[name]
        except KeyError:
            raise ArtifactError(f"the weights have no tensor {name!r}") from None
        if 0 in entry.shape:  # nothing to map
            return np.empty(entry.shape, entry.dtype)
        return np.memmap(entry.path, entry.dtype, "r", entry.offset_bytes, entry.shape)

    def _check_index(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            try:
                named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
                raise ArtifactError(f"{index} has no usable weight_map", hint="fetch it again") from error
            missing = sorted(set(named) - set(self._entries))
            if missing:
                raise ArtifactError(
                    f"{index.name} names {missing[0]!r}, which no file in {folder} holds ({len(missing)} in all)"
                )


def _unpack(words: Array, bits: int, columns: int) -> npt.NDArray[np.float32]:
    """int32 words [rows, words] -> signed codes [rows, columns], the first column in the lowest bits."""
    per_word, mask = 32 // bits, (1 << bits) - 1
    unsigned = words.view("<u4")
    codes = np.empty((words.shape[0], words.shape[1] * per_word), dtype=np.float32)
    for index in range(per_word):
        codes[:, index::per_word] = (unsigned >> np.uint32(index * bits)) & np.uint32(mask)
    codes -= 1 << (bits - 1)
    return codes[:, :columns]


def _to_float32(stored: Array) -> npt.NDArray[np.float32]:
    if stored.dtype == np.uint16:  # bfloat16: the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.asarray(stored, dtype=np.float32)


def _read_header(path: Path) -> Iterator[tuple[str, _Entry]]:
    """Entries of one file, each checked to lie inside of it."""
    try:
        stored = read_safetensors_header(path)
    except UsageError as error:
        raise ArtifactError(error.message, hint=error.hint) from error
    for tensor in stored:
        if tensor.dtype not in _DTYPES:
            raise ArtifactError(
                f"{path}: {tensor.name} is stored as {tensor.dtype}, which numpy does not have"
            )
        yield tensor.name, _Entry(path, _DTYPES[tensor.dtype], tensor.shape, tensor.begin)
