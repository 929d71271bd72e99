"""Checkpoint tensors as GGML blocks: the bytes of Q4_0, Q8_0, BF16, F16 and F32, piece by piece.

Q4_0 is a float16 scale and 16 bytes for 32 features: byte j holds feature j in its low nibble and feature j + 16 in its
high nibble, both as code + 8. Q8_0 is a float16 scale and 32 signed bytes. The weight is `code * scale` in both, which
is what the checkpoint holds, so packing only moves bits. Blocks of 64 and 128 repeat their scale.
Layouts: ggml-quants.c, `dequantize_row_q4_0` and `dequantize_row_q8_0` (MIT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgeport.export.checkpoint import PackedTensor, TensorRecord, pack_codes, unpack_codes
from edgeport.scheme import Kind, TensorScheme

Bytes = npt.NDArray[np.uint8]
Index = npt.NDArray[np.intp]

GGML_BLOCK = 32
PIECE_BYTES = 2 << 20  # of the payload: small enough for the second-level cache, large enough for numpy

_TYPES: dict[Kind, GGMLQuantizationType] = {
    "int4": GGMLQuantizationType.Q4_0,
    "int8": GGMLQuantizationType.Q8_0,
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
}
_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)
_HIGH = np.uint64(0xF0F0F0F0F0F0F0F0)
_FOUR = np.uint64(4)


def ggml_type(record: TensorRecord) -> GGMLQuantizationType:
    """The type a tensor is stored as; llama.cpp wants norms and biases in F32 whatever the model is in."""
    return GGMLQuantizationType.F32 if len(record.shape) == 1 else _TYPES[record.scheme.kind]


def stored_bytes(record: TensorRecord) -> int:
    return joined_bytes([record])


def joined_type(records: Sequence[TensorRecord]) -> GGMLQuantizationType:
    """The type of a tensor made of the rows of several: theirs, or one that holds the weights of all exactly.

    Q8_0 holds INT4 with the same scale, F32 everything.
    """
    types = {ggml_type(record) for record in records}
    if len(types) == 1:
        return types.pop()
    if types == {GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0}:
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.F32


def joined_shape(records: Sequence[TensorRecord]) -> tuple[int, ...]:
    """Rows of all, one after the other."""
    return (sum(record.shape[0] for record in records), *records[0].shape[1:])


def joined_bytes(records: Sequence[TensorRecord]) -> int:
    """Bytes of the tensor that holds the rows of all in their `joined_type`."""
    block, block_bytes = GGML_QUANT_SIZES[joined_type(records)]
    count = int(np.prod(joined_shape(records), dtype=np.int64))
    return count // int(block) * int(block_bytes)


def packed_pieces(
    tensor: PackedTensor, target: GGMLQuantizationType, rows: Index | None = None
) -> Iterator[Bytes]:
    """The tensor's bytes in file order, a few rows at a time; `rows` is the row order, None for its own.

    target: its own `ggml_type`, or a wider one that `joined_type` gave.
    """
    payload = tensor.payload if tensor.payload.ndim > 1 else tensor.payload[:, None]
    step = max(1, PIECE_BYTES // payload[0].nbytes)
    for start in range(0, payload.shape[0], step):
        select: Any = slice(start, start + step) if rows is None else rows[start : start + step]
        yield _packed(tensor, payload[select], select, target)


def _packed(tensor: PackedTensor, payload: Any, select: Any, target: GGMLQuantizationType) -> Bytes:
    if tensor.scales is None:
        return _float_bytes(payload, target)
    if target is GGMLQuantizationType.Q4_0:
        return q4_0_blocks(payload, _scale_per_block(tensor, select))
    codes = payload if tensor.scheme.bits == 8 else pack_codes(unpack_codes(payload, tensor.scheme.bits), 8)
    if target is GGMLQuantizationType.Q8_0:
        return q8_0_blocks(codes, _scale_per_block(tensor, select))
    scheme = TensorScheme("int8", tensor.scheme.block)
    piece = PackedTensor(tensor.name, codes.shape, scheme, codes, tensor.scales[select])
    return _float_bytes(piece.dequantize(), target)


def q4_0_blocks(packed: Bytes, scales: npt.NDArray[np.float16]) -> Bytes:
    """Packed nibbles [rows, columns / 2] and scales [rows, columns / 32] -> blocks [rows * columns / 32, 18]."""
    words = np.ascontiguousarray(packed).reshape(-1, GGML_BLOCK // 2).view(np.uint64)
    # features 0..15 and 16..31, neighbours in one byte
    first, second = words[:, 0].copy(), words[:, 1].copy()
    even = (first & _LOW) | ((second & _LOW) << _FOUR)
    odd = ((first >> _FOUR) & _LOW) | (second & _HIGH)
    pairs = odd.view(np.uint8).astype("<u2")
    pairs <<= 8
    pairs |= even.view(np.uint8)
    blocks = np.empty((words.shape[0], 9), dtype="<u2")
    blocks[:, 0] = scales.reshape(-1).view("<u2")
    blocks[:, 1:] = pairs.reshape(-1, 8)
    return blocks.view(np.uint8)


def q8_0_blocks(packed: Bytes, scales: npt.NDArray[np.float16]) -> Bytes:
    """Offset-binary bytes [rows, columns] and scales [rows, columns / 32] -> blocks [rows * columns / 32, 34]."""
    words = np.ascontiguousarray(packed).reshape(-1, GGML_BLOCK).view("<u2")
    blocks = np.empty((words.shape[0], 17), dtype="<u2")
    blocks[:, 0] = scales.reshape(-1).view("<u2")
    np.bitwise_xor(words, 0x8080, out=blocks[:, 1:])
    return blocks.view(np.uint8)


def _scale_per_block(tensor: PackedTensor, select: Any) -> npt.NDArray[np.float16]:
    assert tensor.scales is not None
    scales = np.ascontiguousarray(tensor.scales[select])
    repeats = tensor.scheme.block // GGML_BLOCK
    return scales if repeats == 1 else np.repeat(scales, repeats, axis=1)


def _float_bytes(values: npt.NDArray[Any], target: GGMLQuantizationType) -> Bytes:
    converted = values.astype("<f4") if target is GGMLQuantizationType.F32 else values
    return np.ascontiguousarray(converted).reshape(-1).view(np.uint8)
