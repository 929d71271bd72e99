"""Protocol buffers in plain Python against the onnx package's own, in memory and from a mapped file."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgeport.errors import ArtifactError
from edgeport.runtimes.protobuf import fields, numbers, spans, text_of

DIMS, TYPE, NAME, RAW = 1, 2, 8, 9


@pytest.fixture
def tensor() -> bytes:
    made = helper.make_tensor("weights", TensorProto.UINT8, [3, 300], bytes(900), raw=True)
    content: bytes = made.SerializeToString()
    return content


def test_spans_are_the_fields_without_their_bytes(tensor: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before" + tensor + b"after")
    with (
        (tmp_path / "x").open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        found = list(spans(view, 6, 6 + len(tensor)))
        texts = {number: view[first:end] for number, _, first, end in found}
    assert [(number, value) for number, value, first, end in found if first == end] == list(numbers(tensor))
    assert texts[NAME].decode() == text_of(tensor, NAME) == "weights" and len(texts[RAW]) == 900
    assert [number for number, *_ in found] == [number for number, _, _ in fields(tensor)]


def test_a_field_never_reaches_beyond_its_message(tensor: bytes) -> None:
    for cut in range(1, 20):
        with pytest.raises(ArtifactError):
            list(spans(tensor, 0, len(tensor) - cut))
