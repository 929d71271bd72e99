"""Logits of chosen rows: the same numbers as the graph as it was written, in the engine."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeport.errors import ArtifactError
from edgeport.runtimes.onnx_head import LOGITS_BEGIN, choose_logits_rows

ROWS = np.random.default_rng(4).normal(size=(1, 5, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)


def graph_of(nodes: list[onnx.NodeProto]) -> bytes:
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "rows", 4])]
    logits = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "rows", 8])]
    constants = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.ones(8, np.float32), "bias"),
        numpy_helper.from_array(np.array(0.5, np.float32), "cap"),
        numpy_helper.from_array(np.array([-1]), "last"),
    ]
    graph = helper.make_graph(nodes, "g", values, logits, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


PLAIN = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["h", "weight"], ["logits"])]
BIASED = [
    helper.make_node("Relu", ["x"], ["h"]),
    helper.make_node("MatMul", ["h", "weight"], ["product"]),
    helper.make_node("Add", ["product", "bias"], ["logits"]),
]
CAPPED = [
    helper.make_node("Relu", ["x"], ["h"]),
    helper.make_node("MatMul", ["h", "weight"], ["product"]),
    helper.make_node("Div", ["product", "cap"], ["share"]),
    helper.make_node("Tanh", ["share"], ["bent"]),
    helper.make_node("Mul", ["bent", "cap"], ["logits"]),
]
LAST_ONLY = [
    helper.make_node("Gather", ["x", "last"], ["h"], axis=1),
    helper.make_node("MatMul", ["h", "weight"], ["logits"]),
]


def run(model: bytes, **feeds: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": ROWS, **feeds})[0]


@pytest.mark.parametrize("nodes", [PLAIN, BIASED, CAPPED], ids=["plain", "bias", "soft cap"])
@pytest.mark.parametrize("begin", [0, 2, 4])
def test_rows_from_the_one_named_are_computed(nodes: list[onnx.NodeProto], begin: int) -> None:
    written = graph_of(nodes)
    chosen = choose_logits_rows(written)
    onnx.checker.check_model(onnx.load_from_string(chosen))
    found = run(chosen, **{LOGITS_BEGIN: np.array([begin])})
    assert found.shape == (1, 5 - begin, 8)
    np.testing.assert_array_equal(found, run(written)[:, begin:])


def test_a_graph_that_computes_one_row_or_has_no_head_stays_as_it_is() -> None:
    written = graph_of(LAST_ONLY)
    assert choose_logits_rows(written) == written
    relu = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5, 4])],
    )
    written = bytes(helper.make_model(relu).SerializeToString())
    assert choose_logits_rows(written) == written


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no ONNX model"):
        choose_logits_rows(b"\xff" * 40)
