"""safetensors headers: what safetensors wrote is read back; what is damaged is refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeport.devices.safetensors_header import (
    INDEX_NAME,
    read_safetensors_folder,
    read_safetensors_header,
)
from edgeport.errors import UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {"a.weight": np.zeros((3, 5), np.float32), "b.bias": np.zeros((7,), np.float16)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_tensors_are_those_that_were_saved(model: Path) -> None:
    found = {item.name: (item.dtype, item.shape, item.size_bytes) for item in read_safetensors_header(model)}
    assert found == {"a.weight": ("F32", (3, 5), 60), "b.bias": ("F16", (7,), 14)}
    assert read_safetensors_folder(model.parent) == read_safetensors_header(model)


def whole(header: Any) -> Callable[[bytes], bytes]:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda _: len(content).to_bytes(8, "little") + content + bytes(64)


def one(**entry: Any) -> Callable[[bytes], bytes]:
    return whole({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry})


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "header would have 0 bytes"),
    "length": (lambda file: (2**63).to_bytes(8, "little") + file[8:], "header would have"),
    "cut short": (lambda file: file[:-1], "cut short"),
    "half a header": (lambda file: file[:40], "header would have"),
    "no JSON": (whole(b"{]"), "not JSON"),
    "nested": (whole(b"[" * 200_000), "not JSON"),
    "a list": (whole([1]), "not a JSON object"),
    "a number for a tensor": (whole({"x": 3}), "unknown type None"),
    "type": (one(dtype="F7"), "unknown type 'F7'"),
    "twice": (whole(b'{"x": {"dtype": "F32", "shape": [2], "dtype": "F16"}}'), "'dtype' comes twice"),
    "many dimensions": (one(shape=[2**59] * 100_000), "no usable shape"),
    "shape": (one(shape=[-2]), "no usable shape"),
    "text in shape": (one(shape=["2"]), "no usable shape"),
    "true in shape": (one(shape=[True, True]), "no usable shape"),
    "huge shape": (one(shape=[2**50, 2**50]), "takes 8 bytes"),
    "offsets": (one(data_offsets=[0]), "no usable shape"),
    "too few bytes": (one(data_offsets=[0, 4]), "takes 4 bytes"),
    "backwards": (one(data_offsets=[8, 0]), "takes -8 bytes"),
    "beyond the end": (one(data_offsets=[2**40, 2**40 + 8]), "cut short"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_refused(case: str, model: Path) -> None:
    damage, reason = DAMAGED[case]
    model.write_bytes(damage(model.read_bytes()))
    with pytest.raises(UsageError, match=reason):
        read_safetensors_header(model)


def test_a_file_that_ends_early_can_be_looked_at(model: Path) -> None:
    expected = read_safetensors_header(model)
    model.write_bytes(model.read_bytes()[:-20])
    assert read_safetensors_header(model, whole=False) == expected
    with pytest.raises(UsageError, match="cut short"):
        read_safetensors_header(model)


def test_shards_are_found_by_their_index(model: Path) -> None:
    index = model.parent / INDEX_NAME
    save_file({"c": np.zeros(2, np.float32)}, model.parent / "stray.safetensors")
    index.write_text(json.dumps({"weight_map": {"a.weight": model.name, "b.bias": model.name}}))
    assert {item.name for item in read_safetensors_folder(model.parent)} == {"a.weight", "b.bias"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"weight_map": {"a.weight": "../model.safetensors"}}, "names the file"),
        ({"weight_map": {"a.weight": "other.safetensors"}}, "names the file"),
        ({"weight_map": {"a.weight": "a" * 5000}}, "names the file"),
        ({"weight_map": {"z": "model.safetensors"}}, "its file does not hold"),
        ({"weight_map": {"a.weight": 3}}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(document: Any, reason: str, model: Path) -> None:
    (model.parent / INDEX_NAME).write_text(json.dumps(document))
    with pytest.raises(UsageError, match=reason):
        read_safetensors_folder(model.parent)
