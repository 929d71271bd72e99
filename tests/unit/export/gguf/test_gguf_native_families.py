"""llama.cpp's own schemes for families whose tensors are fused, slide or have an offset: forecast, read back, golden answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeport.export.formats.base import WriteOptions
from edgeport.export.native.gguf_imatrix import (
    SECOND_MOMENT,
    ImatrixText,
    read_imatrix,
    read_importance,
    write_imatrix,
)
from edgeport.export.native.gguf_k_quants import _float_file
from edgeport.export.native.gguf_mix import MIXES, tensor_types
from edgeport.export.native.gguf_quantize import quantize_in_child
from edgeport.export.native.table import get_native
from edgeport.export.quantize.run import copy_side_files
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.export.source import SourceModel, open_source
from edgeport.export.verify.gguf_header import read_header
from edgeport.export.verify.native import dequantize_in_child, stored_bits
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.gguf import open_session
from edgeport.runtimes.reference import ReferenceSession
from edgeport.runtimes.session import SessionOptions

FAMILIES = ("phi3", "mistral", "gemma2")
LABELS = ("Q4_K_M", "Q3_K_M", "Q2_K", "Q8_0")
TOKENS = np.random.default_rng(8).integers(0, 256, 80).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def source(request: pytest.FixtureRequest, family_twin: Callable[..., Path]) -> SourceModel:
    return open_source(str(family_twin(request.param, tokenizer="qwen2", dtype="float32")))


@pytest.fixture(scope="module")
def floats(source: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floats")
    return _float_file(source, folder, WriteOptions("tiny", 64, NO_PROGRESS))[0]


def importance_of(source: SourceModel, path: Path) -> Path:
    """The statistics of a calibration pass: parts of a fused matrix see the same input."""
    random = np.random.default_rng(9)
    spec = source.spec
    inputs: dict[str, np.ndarray] = {}
    plan = []
    for item in spec.tensors():
        if item.role == "linear":
            group = spec.storage.group(item.name)[0]
            inputs.setdefault(group, random.gamma(1.0, size=item.shape[1]).astype(np.float32))
            plan.append((item.name + SECOND_MOMENT, inputs[group]))
    with SafetensorsWriter(path, [TensorPlan(name, "F32", values.shape) for name, values in plan]) as writer:
        for name, values in plan:
            writer.write(name, values)
    return path


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("label", LABELS)
def test_llama_cpp_gives_the_types_that_were_forecast(
    label: str, importance: bool, source: SourceModel, floats: Path, tmp_path: Path
) -> None:
    imatrix = None
    if importance:
        imatrix = tmp_path / "imatrix.gguf"
        found = read_importance(importance_of(source, tmp_path / "statistics.safetensors"), source.spec)
        write_imatrix(imatrix, found, ImatrixText())
        assert sorted(read_imatrix(imatrix)) == sorted(found)
    target, file_type = tmp_path / "k.gguf", int(MIXES[label].file_type)
    quantize_in_child(str(floats), str(target), file_type, 1, None if imatrix is None else str(imatrix), {})
    forecast = tensor_types(source.spec, MIXES[label], importance=importance)
    tensors = {item.name: item for item in read_header(target).tensors}
    derived = {name for name in tensors if "rope_factors" in name or "sinks" in name}
    assert set(tensors) - derived == set(forecast)
    assert {name: tensors[name].type for name in forecast} == {
        name: item.stored for name, item in forecast.items()
    }
    if importance:
        size_bytes = sum(item.stop - item.start for item in tensors.values())
        assert get_native(f"gguf-{label.lower()}").forecast(source.spec).size_bytes == size_bytes


def test_the_oracle_agrees_with_llama_cpp_on_what_it_read_back(
    source: SourceModel, floats: Path, tmp_path: Path
) -> None:
    target, folder = tmp_path / "k.gguf", tmp_path / "float"
    folder.mkdir()
    quantize_in_child(str(floats), str(target), int(MIXES["Q4_K_M"].file_type), 1, None, {})
    found = dequantize_in_child("gguf-q4_k_m", str(target), str(source.directory), str(folder))
    assert (
        set(found) == {item.name for item in source.spec.tensors()} == set(stored_bits("gguf-q4_k_m", target))
    )
    copy_side_files(source.directory, folder)
    oracle = ReferenceSession(folder, SessionOptions(context_length=len(TOKENS)))
    expected = oracle.feed(TOKENS, all_logits=True)
    oracle.close()
    session = open_session(target, SessionOptions(threads=1, exact=True))
    logits = session.feed(TOKENS, all_logits=True)
    session.close()
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
