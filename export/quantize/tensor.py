"""Quantize or convert one tensor, in pieces of rows, and hash what it dequantizes to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import PackedTensor, pack_codes
from edgeport.export.quantize import rtn
from edgeport.export.quantize.grid import LARGEST_SCALE
from edgeport.export.quantize.solver import RowSolver
from edgeport.export.safetensors_file import DTYPES
from edgeport.scheme import TensorScheme

_PIECE_ELEMENTS = 1 << 21  # 8 MiB in float32 per worker
FLOAT_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
"""Names of safetensors for the float kinds."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """payload and scales as `checkpoint.PackedTensor` has them; digest of the dequantized float32 values."""

    payload: npt.NDArray[Any]
    scales: npt.NDArray[np.float16] | None
    digest: str


def quantize_tensor(
    values: npt.NDArray[Any], scheme: TensorScheme, *, name: str, solve: RowSolver = rtn.solve
) -> QuantizedTensor:
    """Quantize or convert one tensor of any float dtype, in pieces of rows.

    Raises UnsupportedModel for values that are not finite or that the scheme cannot hold.
    """
    if not scheme.is_quantized:
        return _convert(values, scheme, name)
    rows, columns = values.shape
    payload = np.empty((rows, columns * scheme.bits // 8), dtype=np.uint8)
    scales = np.empty((rows, columns // scheme.block), dtype=np.float16)
    digest = hashlib.sha256()
    largest = float(LARGEST_SCALE) * (1 << (scheme.bits - 1))
    for start, piece in _pieces(values, name):
        if np.abs(piece).max() > largest:
            raise UnsupportedModel(
                f"{name} has values beyond {largest:g}, the largest {scheme} can hold",
                hint="use the recipe bf16",
            )
        solved = solve(piece, scheme)
        stop = start + piece.shape[0]
        payload[start:stop] = pack_codes(solved.codes, scheme.bits)
        scales[start:stop] = solved.scales
        codes = solved.codes.reshape(-1, scheme.block).astype(np.float32)
        codes *= solved.scales.reshape(-1, 1)
        digest.update(_canonical_bytes(codes))
    return QuantizedTensor(payload, scales, digest.hexdigest())


def _convert(values: npt.NDArray[Any], scheme: TensorScheme, name: str) -> QuantizedTensor:
    dtype = DTYPES[FLOAT_DTYPES[scheme.kind]]
    payload = np.empty(values.shape, dtype=dtype)
    digest = hashlib.sha256()
    for start, piece in _pieces(values.reshape(values.shape[0], -1), name):
        with np.errstate(over="ignore"):
            converted = piece.astype(dtype)
        weights = converted.astype(np.float32)
        if not np.isfinite(weights).all():
            raise UnsupportedModel(
                f"{name} has values beyond the range of {scheme.kind}", hint="use the recipe bf16"
            )
        payload[start : start + piece.shape[0]] = converted.reshape(-1, *values.shape[1:])
        digest.update(_canonical_bytes(weights))
    return QuantizedTensor(payload, None, digest.hexdigest())


def _pieces(values: npt.NDArray[Any], name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """(first row, rows as finite float32 [rows, in_features]) over a tensor [out_features, in_features]."""
    step = max(_PIECE_ELEMENTS // max(values.shape[1], 1), 1)
    for start in range(0, values.shape[0], step):
        piece = values[start : start + step].astype(np.float32)
        if not np.isfinite(piece).all():
            raise UnsupportedModel(
                f"{name} holds NaN or infinite values", hint="the source weights are damaged"
            )
        yield start, piece


def _canonical_bytes(weights: npt.NDArray[np.float32]) -> memoryview:
    """Little-endian float32 with -0.0 as 0.0, as `checkpoint.tensor_digest` hashes them."""
    return np.ascontiguousarray(weights + np.float32(0.0), dtype="<f4").reshape(-1).view(np.uint8).data


def digest_of(tensor: PackedTensor) -> str:
    """`checkpoint.tensor_digest` of the dequantized weight, computed in pieces of rows."""
    digest = hashlib.sha256()
    for piece in tensor.row_pieces(_PIECE_ELEMENTS):
        digest.update(_canonical_bytes(piece.dequantize()))
    return digest.hexdigest()
