"""What OpenVINO's CPU plug-in runs: compressed products with bias and GELU inside, one kernel per norm and per attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openvino
import pytest
from encoder_twins import LAYERS, pack, write

Twins = Callable[..., Path]


def kernels(folder: Path) -> Counter[str]:
    """Kinds of the layers of the compiled model."""
    compiled = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU")
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind = node.get_rt_info()["layerType"]
        found[kind if isinstance(kind, str) else kind.astype(str)] += 1
    return found


@pytest.mark.parametrize("recipe", ["f16", "int8", "int4"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_kernels(family: str, recipe: str, twin: Twins, tmp_path: Path) -> None:
    _, encoder = pack(twin(family), recipe, tmp_path / "checkpoint")
    found = kernels(write(encoder, "openvino", tmp_path / "openvino"))
    assert found["FullyConnected"] == 6 * LAYERS
    assert found["MVN"] == 2 * LAYERS + 1
    assert found["Subgraph"] + found["ScaledDotProductAttention"] == LAYERS
    for apart in ("MatMul", "Softmax", "SoftMax", "Gelu", "Math", "Reduce"):
        assert not found[apart]


def test_names_are_those_of_optimum_intel(twin: Twins, tmp_path: Path) -> None:
    _, encoder = pack(twin("roberta", "ForTokenClassification"), "f16", tmp_path / "checkpoint")
    folder = write(encoder, "openvino", tmp_path / "openvino")
    model = openvino.Core().read_model(folder / "openvino_model.xml")
    assert [port.get_any_name() for port in model.inputs] == ["input_ids", "attention_mask"]
    assert [port.get_any_name() for port in model.outputs] == ["last_hidden_state", "logits"]
