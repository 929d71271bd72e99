"""Our safetensors reader against the `safetensors` package's writer and the other way round, and every damage told by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from edgeport.errors import UsageError
from edgeport.export.safetensors_file import (
    DTYPES,
    SafetensorsFile,
    SafetensorsFolder,
    SafetensorsWriter,
    TensorPlan,
)

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def raw_file(path: Path, header: Any, data: bytes = b"") -> Path:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body + data)
    return path


def tensor_of(dtype: str) -> torch.Tensor:
    values = torch.tensor([[0.0, 1.0, -2.5], [3.25, 100.0, -0.0]])
    return values.to(torch.uint8) if dtype == "U8" else values.to(TORCH[dtype])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_reads_what_the_package_writes(tmp_path: Path, dtype: str) -> None:
    values = tensor_of(dtype)
    save_file({"a": values, "odd": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "m.safetensors")
    got = SafetensorsFile(tmp_path / "m.safetensors").tensor("a")
    assert got.dtype == DTYPES[dtype] and got.shape == (2, 3)
    assert got.tobytes() == values.contiguous().view(torch.uint8).numpy().tobytes()
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = got[0, 1]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_package_reads_what_we_write(tmp_path: Path, dtype: str) -> None:
    want = tensor_of(dtype)
    raw = want.contiguous().view(torch.uint8).numpy().tobytes()
    array = np.frombuffer(raw, DTYPES[dtype]).reshape(2, 3)
    plan = [TensorPlan("b", dtype, (2, 3)), TensorPlan("a", "F32", (1,)), TensorPlan("empty", "I64", (0,))]
    with SafetensorsWriter(tmp_path / "m.safetensors", plan) as writer:
        writer.write_rows("b", (array[:1], array[1:]))
        writer.write("a", np.array([7], np.float32))
        writer.write("empty", np.empty(0, np.int64))
    with safe_open(tmp_path / "m.safetensors", framework="pt") as stream:
        assert torch.equal(stream.get_tensor("b"), want)
        assert stream.get_tensor("a").item() == 7
        assert stream.metadata() == {"format": "pt"}
    ours = SafetensorsFile(tmp_path / "m.safetensors")
    assert ours.tensor("empty").size == 0 and ours.tensor("b").tobytes() == raw


def test_strided_arrays_are_written_in_order(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    with SafetensorsWriter(tmp_path / "m.safetensors", [TensorPlan("a", "F32", (4, 3))]) as writer:
        writer.write("a", values)
    assert np.array_equal(SafetensorsFile(tmp_path / "m.safetensors").tensor("a"), values)


def test_released_pages_read_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 4096), dtype=np.uint8)
    plan = [TensorPlan("x", "U8", (3,)), TensorPlan("a", "U8", values.shape), TensorPlan("z", "U8", (5,))]
    with SafetensorsWriter(tmp_path / "m.safetensors", plan) as writer:
        writer.write("x", np.array([1, 2, 3], np.uint8))
        writer.write("a", values)
        writer.write("z", np.arange(5, dtype=np.uint8))
    file = SafetensorsFile(tmp_path / "m.safetensors")
    view = file.tensor("a")
    for name in ("x", "a", "z"):
        file.release(name)
    assert np.array_equal(view, values) and np.array_equal(file.tensor("z"), np.arange(5))


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


DAMAGED = {
    "too short": (b"", b"", "header length"),
    "offsets past the end": ({"w.x": entry()}, b"\0" * 23, "w.x"),
    "offsets disagree with the shape": ({"w.x": entry(data_offsets=[0, 20])}, b"\0" * 24, "w.x"),
    "offsets before the data": ({"w.x": entry(data_offsets=[-8, 16])}, b"\0" * 24, "w.x"),
    "unknown dtype": ({"w.x": entry(dtype="F8_E4M3", data_offsets=[0, 6])}, b"\0" * 6, "F8_E4M3"),
    "negative sizes": ({"w.x": entry(shape=[-2, -3])}, b"\0" * 24, "w.x"),
    "a product that overflows": (
        {"w.x": entry(shape=[2**62, 4, 4], data_offsets=[0, 0])},
        b"",
        "w.x",
    ),
    "no dtype": ({"w.x": {"shape": [2, 3], "data_offsets": [0, 24]}}, b"\0" * 24, "w.x"),
    "one offset": ({"w.x": entry(data_offsets=[0])}, b"\0" * 24, "w.x"),
    "entry is no object": ({"w.x": 5}, b"", "w.x"),
    "header is a list": ([1], b"", "header"),
    "header is not JSON": (b"{nope ", b"", "header"),
    "lists without end": (b"[" * 100_000, b"", "header"),
    "a size without end": (b'{"w.x":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}', b"\0", "w.x"),
    "many dimensions": ({"w.x": entry(shape=[2**62] * 50_000)}, b"", "w.x"),
    "the same name twice": (
        b'{"w.x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w.x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b"\0\0",
        "w.x",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_names_the_file_and_the_tensor(tmp_path: Path, case: str) -> None:
    header, data, told = DAMAGED[case]
    path = raw_file(tmp_path / "broken.safetensors", header, data)
    with pytest.raises(UsageError) as caught:
        SafetensorsFile(path)
    assert str(path) in caught.value.message and told in caught.value.message


@pytest.mark.parametrize("kept", [0, 4, 8, 40])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    save_file({"layer.weight": torch.ones(4, 4)}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(whole[:kept])
    with pytest.raises(UsageError, match=r"m\.safetensors"):
        SafetensorsFile(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=r"layer\.weight.*truncated|layer\.weight"):
        SafetensorsFile(tmp_path / "m.safetensors")


def test_a_tensor_in_two_files_names_both(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UsageError, match=r"tensor w is both in one\.safetensors and in two\.safetensors"):
        SafetensorsFolder(tmp_path)


def test_a_folder_without_safetensors_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        SafetensorsFolder(tmp_path)
    assert caught.value.hint is not None and "save_pretrained" in caught.value.hint


WRONG: dict[str, tuple[str, Any, str]] = {
    "order": ("b", np.zeros((2, 2), np.float32), "expected a"),
    "dtype": ("a", np.zeros((2, 2), np.float64), "float64"),
    "byte order": ("a", np.zeros((2, 2), ">f4"), "planned F32"),
    "columns": ("a", np.zeros((2, 3), np.float32), r"\[2, 3\]"),
    "rows": ("a", np.zeros((1, 2), np.float32), "planned 2 rows, got 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_writer_refuses_what_was_not_planned(tmp_path: Path, case: str) -> None:
    name, array, told = WRONG[case]
    path = tmp_path / "m.safetensors"
    plan = [TensorPlan("a", "F32", (2, 2)), TensorPlan("b", "F32", (2, 2))]
    with pytest.raises(ValueError, match=told), SafetensorsWriter(path, plan) as writer:
        writer.write(name, array)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_missing_tensors_is_never_renamed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"older")
    plan = [TensorPlan("a", "F32", (1,)), TensorPlan("b", "F32", (1,))]
    with pytest.raises(ValueError, match="1 planned tensors"), SafetensorsWriter(path, plan) as writer:
        writer.write("a", np.zeros(1, np.float32))
        assert path.read_bytes() == b"older", "the name appears by a rename at the end"
    assert path.read_bytes() == b"older"
    with pytest.raises(ValueError, match="nothing more"), SafetensorsWriter(path, plan[:1]) as writer:
        writer.write("a", np.zeros(1, np.float32))
        writer.write("a", np.zeros(1, np.float32))


def test_bfloat16_pieces_keep_their_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((5, 7)).astype(ml_dtypes.bfloat16)
    with SafetensorsWriter(tmp_path / "m.safetensors", [TensorPlan("a", "BF16", (5, 7))]) as writer:
        writer.write_rows("a", (values[:2], values[2:]))
    with safe_open(tmp_path / "m.safetensors", framework="pt") as stream:
        assert np.array_equal(stream.get_tensor("a").float().numpy(), values.astype(np.float32))
