"""The byte-level cut of an ONNX graph, checked with the onnx package and run by the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeport.errors import ArtifactError, EdgeportError, UnsupportedModel
from edgeport.runtimes.onnx_graph import end_at_hidden_states

WEIGHT = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
X = np.random.default_rng(4).normal(size=(1, 3, 4)).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("logits",), kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [1, None, None])

    dtype = helper.tensor_dtype_to_np_dtype(kind)
    initializers = [
        numpy_helper.from_array(WEIGHT.astype(dtype), "weight"),
        numpy_helper.from_array(np.ones(8, dtype), "bias"),
        numpy_helper.from_array(np.array([-1]), "last"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x")], [value(name) for name in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: bytes, name: str, dtype: type = np.float32) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run([name], {"x": X.astype(dtype)})[0]


HEADS = {
    "plain": [helper.make_node("MatMul", ["normed", "weight"], ["logits"])],
    "bias": [
        helper.make_node("MatMul", ["normed", "weight"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["logits"]),
    ],
    "soft capping": [
        helper.make_node("MatMul", ["normed", "weight"], ["product"]),
        helper.make_node("Tanh", ["product"], ["bent"]),
        helper.make_node("Mul", ["bent", "bias"], ["logits"]),
    ],
    "last row only": [
        helper.make_node("Gather", ["normed", "last"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "weight"], ["logits"]),
    ],
}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["float", "float16"])
@pytest.mark.parametrize("head", list(HEADS))
def test_the_heads_input_becomes_the_output(head: str, kind: int) -> None:
    model = model_of([helper.make_node("Softsign", ["x"], ["normed"]), *HEADS[head]], kind=kind)
    cut, name = end_at_hidden_states(model.SerializeToString())
    assert name == "normed"
    left = onnx.load_from_string(cut)
    assert [node.op_type for node in left.graph.node] == ["Softsign"]
    assert [output.name for output in left.graph.output] == ["normed"]
    assert left.graph.initializer == model.graph.initializer and left.opset_import == model.opset_import
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    np.testing.assert_allclose(run(cut, name, dtype), X / (1 + np.abs(X)), atol=2e-3)


def test_other_outputs_and_what_a_subgraph_reads_stay() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["seen inside"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Softsign", ["x"], ["normed"]),
        helper.make_node("Abs", ["x"], ["seen inside"]),
        helper.make_node("Abs", ["normed"], ["only for the head"]),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["present"], then_branch=branch, else_branch=branch),
        helper.make_node("MatMul", ["normed", "weight"], ["logits"]),
    ]
    cut, name = end_at_hidden_states(model_of(nodes, ("logits", "present")).SerializeToString())
    left = onnx.load_from_string(cut)
    assert [node.op_type for node in left.graph.node] == ["Softsign", "Abs", "Constant", "If"]
    assert [output.name for output in left.graph.output] == ["present", "normed"]
    np.testing.assert_allclose(run(cut, "present"), -np.abs(X))


def test_a_tied_head_leaves_the_embedding(packed_dir: Path) -> None:
    file = packed_dir / "onnx" / "model.onnx"
    whole = onnx.load(file, load_external_data=False)
    cut, name = end_at_hidden_states(file.read_bytes())
    left = onnx.load_from_string(cut)
    removed = [node.name for node in whole.graph.node if node not in left.graph.node]
    assert name == "final_norm" and "lm_head" in removed
    assert all("lm_head" in node or node == "logits" for node in removed)
    assert len(left.graph.output) == len(whole.graph.output)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Softsign", ["x"], ["logits"])],
        [helper.make_node("MatMul", ["x", "weight"], ["other"]), helper.make_node("Abs", ["x"], ["logits"])],
    ],
)
def test_a_graph_without_a_head_is_refused(nodes: list[onnx.NodeProto]) -> None:
    with pytest.raises(UnsupportedModel, match="no output head behind 'logits'"):
        end_at_hidden_states(model_of(nodes).SerializeToString())


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_flipped_bits_never_end_in_anything_else(packed_dir: Path, data: st.DataObject) -> None:
    model = bytearray((packed_dir / "onnx" / "model.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        model[data.draw(st.integers(0, len(model) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        end_at_hidden_states(bytes(model))
    except EdgeportError as error:
        assert "ONNX model" in error.message or "output head" in error.message


def test_damaged_bytes_are_an_error(packed_dir: Path) -> None:
    model = (packed_dir / "onnx" / "model.onnx").read_bytes()
    for damaged in (b"", b"not a model at all", model[: len(model) // 2], model[:3], b"\x80" * 20):
        with pytest.raises((ArtifactError, UnsupportedModel)):
            end_at_hidden_states(damaged)
