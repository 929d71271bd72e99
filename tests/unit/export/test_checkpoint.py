"""The checkpoint's bits: packing, the canonical digest, and what is not a checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.errors import ArtifactError
from edgeport.export.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    PackedTensor,
    pack_codes,
    tensor_digest,
    unpack_codes,
    weights_id,
)
from edgeport.export.quantize.run import quantize, quantize_tensor
from edgeport.export.recipe import load_recipe
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme


@given(
    bits=st.sampled_from([2, 4, 8]),
    rows=st.integers(1, 4),
    fours=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_unpacking_is_the_inverse_of_packing(bits: int, rows: int, fours: int, seed: int) -> None:
    lowest = -(1 << (bits - 1))
    codes = np.random.default_rng(seed).integers(lowest, -lowest, (rows, 4 * fours)).astype(np.int8)
    packed = pack_codes(codes, bits)
    assert packed.dtype == np.uint8 and packed.shape == (rows, 4 * fours * bits // 8)
    assert np.array_equal(unpack_codes(packed, bits), codes)


def test_bytes_written_by_hand() -> None:
    # -8 -> 0 and 7 -> 15; the even feature is the low nibble.
    assert pack_codes(np.array([[-8, 7, 0, -1]], np.int8), 4).tolist() == [[0xF0, 0x78]]
    assert pack_codes(np.array([[-128, 0, 127]], np.int8), 8).tolist() == [[0x00, 0x80, 0xFF]]
    assert unpack_codes(np.array([[0x3A]], np.uint8), 4).tolist() == [[2, -5]]
    # -2, 1, 0, -1 -> 0, 3, 2, 1; the first feature in the lowest two bits.
    assert pack_codes(np.array([[-2, 1, 0, -1]], np.int8), 2).tolist() == [[0b01_10_11_00]]
    assert unpack_codes(np.array([[0b00_01_10_11]], np.uint8), 2).tolist() == [[1, 0, -1, -2]]


def test_dequantize_is_code_times_the_scale_of_its_block() -> None:
    codes = np.arange(-32, 32).reshape(1, 64).clip(-8, 7).astype(np.int8)
    scales = np.array([[0.5, -0.25]], np.float16)
    tensor = PackedTensor("t", (1, 64), TensorScheme("int4", 32), pack_codes(codes, 4), scales)
    want = [code * (0.5 if at < 32 else -0.25) for at, code in enumerate(codes[0].tolist())]
    assert tensor.dequantize().tolist() == [want]


def test_row_pieces_are_the_tensor() -> None:
    values = np.random.default_rng(0).standard_normal((7, 64)).astype(np.float32)
    scheme = TensorScheme("int8", 64)
    made = quantize_tensor(values, scheme, name="t")
    tensor = PackedTensor("t", (7, 64), scheme, made.payload, made.scales)
    pieces = list(tensor.row_pieces(elements=3 * 64))
    assert [piece.shape[0] for piece in pieces] == [3, 3, 1]
    assert np.array_equal(np.concatenate([piece.dequantize() for piece in pieces]), tensor.dequantize())


def test_digest_is_sha256_of_little_endian_float32_with_one_zero() -> None:
    values = np.array([[1.5, -0.0], [0.0, -2.0]], np.float32)
    plain = np.array([1.5, 0.0, 0.0, -2.0], "<f4").tobytes()
    assert tensor_digest(values) == hashlib.sha256(plain).hexdigest()
    assert tensor_digest(values[::-1]) != tensor_digest(values)
    assert tensor_digest(np.asfortranarray(values)) == tensor_digest(values)


@given(
    st.dictionaries(
        st.text("abc.", min_size=1), st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1
    )
)
def test_weights_id_does_not_depend_on_order_but_on_everything_else(digests: dict[str, str]) -> None:
    identity = weights_id(digests)
    assert weights_id(dict(reversed(digests.items()))) == identity
    name = next(iter(digests))
    assert weights_id({**digests, name: digests[name][::-1] + "x"}) != identity
    assert weights_id({key: value for key, value in digests.items() if key != name}) != identity


def test_weights_id_by_hand() -> None:
    lines = b"a 11\nb 22\n"
    assert weights_id({"b": "22", "a": "11"}) == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize("scheme", ["int2", "int4", "int8", "f16", "bf16", "f32"])
def test_the_recorded_digest_is_that_of_the_dequantized_tensor(scheme: str) -> None:
    values = np.random.default_rng(3).standard_normal((6, 64)).astype(np.float32)
    values[0] = -0.0
    kind = TensorScheme(scheme, 32) if scheme.startswith("int") else TensorScheme(scheme)  # type: ignore[arg-type]
    made = quantize_tensor(values, kind, name="t")
    assert made.digest == tensor_digest(
        PackedTensor("t", (6, 64), kind, made.payload, made.scales).dequantize()
    )


def test_a_checkpoint_reads_back_with_its_digests(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_qwen2_dir))
    quantize(source, replace(load_recipe("int4"), solver="rtn"), tmp_path, threads=2, progress=NO_PROGRESS)
    checkpoint = Checkpoint(tmp_path, source.spec)
    assert list(checkpoint.names()) == [item.name for item in source.spec.tensors()]
    for record in checkpoint.records:
        assert tensor_digest(checkpoint.tensor(record.name).dequantize()) == record.digest
        checkpoint.release(record.name)
    assert checkpoint.weights_id == weights_id({record.name: record.digest for record in checkpoint.records})
    assert "lm_head.weight" in checkpoint and "nothing" not in checkpoint
    assert (tmp_path / "source" / "tokenizer.json").read_bytes() == (
        tiny_qwen2_dir / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tensors": 5}', '{"tensors": [{"name": "a"}]}', "{"])
def test_a_damaged_index_is_told(tiny_llama_dir: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / CHECKPOINT_NAME).write_text(text)
    with pytest.raises(ArtifactError, match=CHECKPOINT_NAME):
        Checkpoint(tmp_path, open_source(str(tiny_llama_dir)).spec)
