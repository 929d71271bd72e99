"""The checkpoint: the waist between quantize and the writers. Codes and scales are decided here once, writers only pack.

A folder with
    checkpoint.json      the tensors in order (name, shape, kind, block), their digests and the weights_id
    weights-*.safetensors   per quantized tensor NAME: `NAME.codes` U8 [out_features, in_features * bits / 8] and
                            `NAME.scales` F16 [out_features, in_features / block]; float tensors under their own name
    source/              config.json, tokenizer and generation files of the source model, unchanged

Codes are offset-binary, low bits first: the stored number is code + 2**(bits-1), for INT4 two per byte with the even
input feature in the low nibble, for INT2 four per byte. These are the very bytes of ONNX MatMulNBits, OpenVINO u2/u4/u8
and compressed-tensors; only GGUF orders nibbles differently. The weight is `code * scale`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import ArtifactError
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.manifest import from_json, to_json
from edgeport.scheme import TensorScheme

CHECKPOINT_NAME = "checkpoint.json"
SOURCE_FOLDER = "source"


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor as the writers get it; arrays are memory-mapped views.

    payload: quantized: packed codes [out_features, in_features * bits / 8] uint8; float: the values themselves.
    scales: [out_features, in_features / block] float16, None for float kinds.
    """

    name: str
    shape: tuple[int, ...]
    scheme: TensorScheme
    payload: npt.NDArray[Any]
    scales: npt.NDArray[np.float16] | None = None

    def row_pieces(self, elements: int = 1 << 21) -> Iterator[PackedTensor]:
        """The same tensor in consecutive pieces of rows of about `elements` weights, for writers that must stay small."""
        step = max(elements // max(self.shape[-1], 1), 1)
        for start in range(0, self.shape[0], step):
            payload = self.payload[start : start + step]
            scales = None if self.scales is None else self.scales[start : start + step]
            yield PackedTensor(self.name, (payload.shape[0], *self.shape[1:]), self.scheme, payload, scales)

    def codes(self) -> npt.NDArray[np.int8]:
        """Signed codes [out_features, in_features]."""
        return unpack_codes(self.payload, self.scheme.bits)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weight every container must reproduce, float32, in the tensor's own shape."""
        if self.scales is None:
            return self.payload.astype(np.float32)
        rows, columns = self.shape
        values = (
            self.codes().astype(np.float32).reshape(rows, columns // self.scheme.block, self.scheme.block)
        )
        values *= self.scales.astype(np.float32)[:, :, None]
        return values.reshape(rows, columns)


def pack_codes(codes: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Signed codes [rows, columns] -> offset-binary bytes [rows, columns * bits / 8], the first column in the lowest bits."""
    if bits == 8:
        return codes.view(np.uint8) ^ np.uint8(0x80)
    offset, per_byte = codes.view(np.uint8) + np.uint8(1 << (bits - 1)), 8 // bits
    packed = offset[:, 0::per_byte]
    for at in range(1, per_byte):
        packed = packed | (offset[:, at::per_byte] << np.uint8(at * bits))
    return packed


def unpack_codes(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int8]:
    """The inverse of `pack_codes`."""
    if bits == 8:
        return (packed ^ np.uint8(0x80)).view(np.int8)
    rows, width = packed.shape
    per_byte, mask = 8 // bits, np.uint8((1 << bits) - 1)
    codes = np.empty((rows, width * per_byte), dtype=np.uint8)
    for at in range(per_byte):
        np.bitwise_and(packed >> np.uint8(at * bits), mask, out=codes[:, at::per_byte])
    codes -= np.uint8(1 << (bits - 1))  # wraps to two's complement
    return codes.view(np.int8)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One line of checkpoint.json; `digest` is `tensor_digest` of the dequantized weight."""

    name: str
    shape: tuple[int, ...]
    kind: str
    block: int
    digest: str

    @property
    def scheme(self) -> TensorScheme:
        return TensorScheme(self.kind, self.block)  # type: ignore[arg-type]


def tensor_digest(values: npt.NDArray[np.float32]) -> str:
    """sha256 of the little-endian float32 bytes; negative zero counts as zero, because engines differ in its sign."""
    contiguous = np.ascontiguousarray(values, dtype="<f4") + np.float32(0.0)
    return hashlib.sha256(contiguous.reshape(-1).view(np.uint8).data).hexdigest()


def weights_id(digests: Mapping[str, str]) -> str:
    """One name for a model's dequantized weights: sha256 over the sorted lines `name digest`."""
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


class StoredTensors:
    """A finished checkpoint folder of any model, read lazily: a tensor is touched when a writer asks for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source_directory = directory / SOURCE_FOLDER
        path = directory / CHECKPOINT_NAME
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            self.records: tuple[TensorRecord, ...] = tuple(
                from_json(TensorRecord, item) for item in document["tensors"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} cannot be read: {error}", hint="delete the folder and export again"
            ) from error
        self.weights_id = weights_id({record.name: record.digest for record in self.records})
        self._by_name = {record.name: record for record in self.records}
        self._weights = SafetensorsFolder(directory)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def names(self) -> Iterator[str]:
        return iter(self._by_name)

    def record(self, name: str) -> TensorRecord:
        return self._by_name[name]

    def tensor(self, name: str) -> PackedTensor:
        record = self._by_name[name]
        if not record.scheme.is_quantized:
            return PackedTensor(name, record.shape, record.scheme, self._weights.tensor(name))
        payload, scales = self._weights.tensor(f"{name}.codes"), self._weights.tensor(f"{name}.scales")
        return PackedTensor(name, record.shape, record.scheme, payload, scales)

    def release(self, name: str) -> None:
        """Tell the kernel that this tensor's pages are not needed by this process any more."""
        keys = (f"{name}.codes", f"{name}.scales") if self._by_name[name].scheme.is_quantized else (name,)
        for key in keys:
            self._weights.release(key)

    def size_bytes(self) -> int:
        """Payload and scales of all tensors."""
        return sum(path.stat().st_size for path in self._weights.paths)


class Checkpoint(StoredTensors):
    """The checkpoint of a decoder, with its shape."""

    def __init__(self, directory: Path, spec: DecoderSpec) -> None:
        super().__init__(directory)
        self.spec = spec


def write_index(directory: Path, records: Iterable[TensorRecord]) -> None:
    """Write checkpoint.json last: a folder without it is not a checkpoint."""
    items = [to_json(record) for record in records]
    temporary = directory / (CHECKPOINT_NAME + ".part")
    temporary.write_text(json.dumps({"tensors": items}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(directory / CHECKPOINT_NAME)
