"""Block bytes against the `gguf` package's own quantizer, which is byte-identical to ggml's C code."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from edgeport.export.checkpoint import PackedTensor, TensorRecord, pack_codes
from edgeport.export.formats.gguf_blocks import PIECE_BYTES, ggml_type, packed_pieces, stored_bytes
from edgeport.scheme import TensorScheme

ROWS, COLUMNS = 48, 256


def packed(scheme: TensorScheme, seed: int = 0) -> PackedTensor:
    """Random codes with the extreme one in every block, so that round-to-nearest finds the same scale again."""
    random = np.random.default_rng(seed)
    lowest = -8 if scheme.bits == 4 else -127
    codes = random.integers(lowest, -lowest, size=(ROWS, COLUMNS // 32, 32)).astype(np.int8)
    codes[:, :, 5] = lowest
    scales = (random.integers(8, 16, size=(ROWS, COLUMNS // scheme.block)) * 2.0**-9).astype(np.float16)
    if scheme.bits == 4:
        scales *= random.choice([-1, 1], size=scales.shape).astype(np.float16)
    payload = pack_codes(codes.reshape(ROWS, COLUMNS), scheme.bits)
    return PackedTensor("w", (ROWS, COLUMNS), scheme, payload, scales)


def pieces(tensor: PackedTensor, rows: np.ndarray | None = None) -> bytes:
    target = ggml_type(record(tensor))
    return b"".join(piece.tobytes() for piece in packed_pieces(tensor, target, rows))


def record(tensor: PackedTensor) -> TensorRecord:
    return TensorRecord(tensor.name, tensor.shape, tensor.scheme.kind, tensor.scheme.block, "")


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize(
    ("kind", "target"), [("int4", GGMLQuantizationType.Q4_0), ("int8", GGMLQuantizationType.Q8_0)]
)
def test_blocks_equal_ggmls_own(kind: str, target: GGMLQuantizationType, block: int) -> None:
    tensor = packed(TensorScheme(kind, block))
    assert pieces(tensor) == gguf.quantize(tensor.dequantize(), target).tobytes()


def test_every_code_survives() -> None:
    codes = np.arange(-128, 128, dtype=np.int16).astype(np.int8).reshape(2, 128)
    scales = np.full((2, 4), 2.0**-7, dtype=np.float16)
    tensor = PackedTensor("w", (2, 128), TensorScheme("int8", 32), pack_codes(codes, 8), scales)
    raw = np.frombuffer(pieces(tensor), dtype=np.uint8).reshape(2, -1)
    assert np.array_equal(gguf.dequantize(raw, GGMLQuantizationType.Q8_0), tensor.dequantize())
    nibbles = np.tile(np.arange(-8, 8, dtype=np.int8), (2, 8))
    tensor = PackedTensor("w", (2, 128), TensorScheme("int4", 32), pack_codes(nibbles, 4), scales)
    raw = np.frombuffer(pieces(tensor), dtype=np.uint8).reshape(2, -1)
    assert np.array_equal(gguf.dequantize(raw, GGMLQuantizationType.Q4_0), tensor.dequantize())


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_row_order_moves_codes_and_scales_together(kind: str) -> None:
    tensor = packed(TensorScheme(kind, 64))
    order = np.random.default_rng(1).permutation(ROWS)
    raw = np.frombuffer(pieces(tensor, order), dtype=np.uint8).reshape(ROWS, -1)
    assert np.array_equal(gguf.dequantize(raw, ggml_type(record(tensor))), tensor.dequantize()[order])


def test_a_tensor_larger_than_one_piece_is_whole() -> None:
    rows = PIECE_BYTES // 64 + 3
    codes = np.random.default_rng(2).integers(-8, 8, size=(rows, 128)).astype(np.int8)
    scales = np.random.default_rng(3).integers(1, 9, size=(rows, 4)).astype(np.float16)
    tensor = PackedTensor("w", (rows, 128), TensorScheme("int4", 32), pack_codes(codes, 4), scales)
    assert len(list(packed_pieces(tensor, GGMLQuantizationType.Q4_0, None))) > 1
    raw = np.frombuffer(pieces(tensor), dtype=np.uint8).reshape(rows, -1)
    assert np.array_equal(gguf.dequantize(raw, GGMLQuantizationType.Q4_0), tensor.dequantize())


@pytest.mark.parametrize(
    ("kind", "dtype"), [("bf16", ml_dtypes.bfloat16), ("f16", np.float16), ("f32", np.float32)]
)
def test_floats_are_copied_and_vectors_become_f32(kind: str, dtype: type) -> None:
    values = np.random.default_rng(4).normal(size=(6, 40)).astype(dtype)
    matrix = PackedTensor("w", (6, 40), TensorScheme(kind), values)
    assert pieces(matrix) == values.tobytes()
    vector = PackedTensor("b", (40,), TensorScheme(kind), values[0])
    assert ggml_type(record(vector)) is GGMLQuantizationType.F32
    assert pieces(vector) == values[0].astype(np.float32).tobytes()
    assert pieces(vector, np.arange(40)[::-1]) == values[0, ::-1].astype(np.float32).tobytes()


@pytest.mark.parametrize(
    "scheme", [TensorScheme("int4", 32), TensorScheme("int8", 128), TensorScheme("bf16")]
)
def test_planned_size_is_the_written_size(scheme: TensorScheme) -> None:
    values = np.zeros((ROWS, COLUMNS), dtype=ml_dtypes.bfloat16)
    tensor = packed(scheme) if scheme.is_quantized else PackedTensor("w", (ROWS, COLUMNS), scheme, values)
    assert stored_bytes(record(tensor)) == len(pieces(tensor))
