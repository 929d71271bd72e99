"""The ONNX graph is fused as written and stays so in onnxruntime; INT8 with activations computes in INT8."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from encoder_twins import LAYERS, pack, sequences, transformers_answers, write, write_twin
from onnx import helper

from edgeport.devices.int8_range import Int8Range
from edgeport.errors import ArtifactError
from edgeport.export.encoders.agreement import compare_states
from edgeport.export.encoders.onnx_graph import require_fused
from edgeport.export.encoders.onnx_linears import activation_scale, row_codes
from edgeport.runtimes.encoder_container import open_encoder_container
from edgeport.runtimes.session import SessionOptions

Twins = Callable[..., Path]
FAMILIES = ("bert", "roberta", "distilbert")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def optimized(folder: Path, target: Path) -> Counter[str]:
    """The operators onnxruntime really runs."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(target)
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=["CPUExecutionProvider"])
    return operators(onnx.load(target, load_external_data=False))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", ["f32", "int8", "int4", "int8-dynamic", "int8-static"])
def test_fused_operators(family: str, recipe: str, twin: Twins, tmp_path: Path) -> None:
    _, encoder = pack(twin(family), recipe, tmp_path / "checkpoint")
    folder = write(encoder, "onnx", tmp_path / "onnx")
    runs = optimized(folder, tmp_path / "optimized.onnx")
    assert runs["MultiHeadAttention"] == LAYERS
    assert runs["SkipLayerNormalization"] == 2 * LAYERS + 1
    assert runs["BiasGelu"] == LAYERS
    linear = {
        "f32": "FusedMatMul",
        "int8": "MatMulNBits",
        "int4": "MatMulNBits",
        "int8-dynamic": "DynamicQuantizeMatMul",
        "int8-static": "MatMulIntegerToFloat",
    }[recipe]
    after_gelu = LAYERS if recipe in ("int8-dynamic", "int8-static") else 0
    assert runs[linear] == 6 * LAYERS - after_gelu
    assert not after_gelu or runs["MatMulNBits"] == after_gelu
    assert not runs["Softmax"] and not runs["Erf"] and not runs["MatMul"]
    assert runs["GatherBlockQuantized" if recipe != "f32" else "Gather"] >= 1


@pytest.mark.parametrize(("activation", "operator"), [("gelu_new", "FastGelu"), ("relu", "Relu")])
def test_the_operator_of_an_activation(activation: str, operator: str, tmp_path: Path) -> None:
    folder = write_twin("bert", tmp_path / "model", activation=activation)
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    model = onnx.load(write(encoder, "onnx", tmp_path / "onnx") / "model.onnx", load_external_data=False)
    assert operators(model)[operator] == LAYERS


def test_a_graph_that_is_not_fused_is_refused(twin: Twins, tmp_path: Path) -> None:
    source, encoder = pack(twin("bert"), "f32", tmp_path / "checkpoint")
    model = onnx.load(write(encoder, "onnx", tmp_path / "onnx") / "model.onnx", load_external_data=False)
    linears = {"FusedMatMul": 6 * LAYERS}
    require_fused(model, source.spec, linears)
    place = next(at for at, node in enumerate(model.graph.node) if node.op_type == "BiasGelu")
    node = model.graph.node[place]
    unfused = [
        helper.make_node("Add", list(node.input), ["sum"]),
        helper.make_node("Erf", ["sum"], ["erf"]),
        helper.make_node("Mul", ["sum", "erf"], list(node.output)),
    ]
    model.graph.node.remove(node)
    model.graph.node.extend(unfused)
    with pytest.raises(ArtifactError, match=r"BiasGelu 1 instead of 2.*|Erf 1 instead of 0"):
        require_fused(model, source.spec, linears)


def test_names_are_those_text_embeddings_inference_looks_for(twin: Twins, tmp_path: Path) -> None:
    def described(family: str, head: str = "Model") -> tuple[list[str], list[str]]:
        _, encoder = pack(twin(family, head), "f32", tmp_path / f"{family}-{head}")
        folder = write(encoder, "onnx", tmp_path / f"{family}-{head}-onnx")
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {
            path.name for path in folder.iterdir()
        }
        graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
        return [item.name for item in graph.input], [item.name for item in graph.output]

    ids, mask, types = "input_ids", "attention_mask", "token_type_ids"
    assert described("bert") == ([ids, mask, types], ["last_hidden_state"])
    assert described("roberta") == ([ids, mask], ["last_hidden_state"])
    names = described("distilbert", "ForSequenceClassification")
    assert names == ([ids, mask], ["last_hidden_state", "logits"])


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
@pytest.mark.parametrize("bits", [7, 8])
def test_int8_with_activations_is_near_the_float_model(
    recipe: str, bits: int, twin: Twins, tmp_path: Path
) -> None:
    folder = twin("bert")
    _, encoder = pack(folder, recipe, tmp_path / "checkpoint", bits=bits)
    container = write(encoder, "onnx", tmp_path / "onnx")
    model = open_encoder_container("onnx", container, SessionOptions(threads=1))
    ids = sequences(folder)
    found = compare_states(model.encode(ids), transformers_answers(folder, ids)[0], "mean")
    model.close()
    assert found.mean_token_cosine > 0.98 and found.mean_pooled_cosine > 0.98
    tensors = onnx.load(container / "model.onnx").graph.initializer
    codes = [
        onnx.numpy_helper.to_array(item)
        for item in tensors
        if re.search(r"intermediate\.dense\.weight_codes$", item.name)
    ]
    assert codes and max(int(np.abs(values.astype(int)).max()) for values in codes) == (1 << (bits - 1)) - 1


def test_token_types_reach_the_graph(twin: Twins, tmp_path: Path) -> None:
    """A second segment changes the states as it does in transformers."""
    import torch
    import transformers

    folder = twin("bert")
    _, encoder = pack(folder, "f32", tmp_path / "checkpoint")
    container = write(encoder, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(container / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[6, 20, 21, 7, 22, 7]], np.int64)
    types = np.array([[0, 0, 0, 0, 1, 1]], np.int64)
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
    got = session.run(["last_hidden_state"], values)[0]
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        want = network(**{name: torch.from_numpy(value) for name, value in values.items()}).last_hidden_state
    np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


def test_codes_per_row() -> None:
    weight = np.array([[0.99, -2.0, 0.51], [0.0, 0.0, 0.0], [1e-3, 0.0, -1e-3]], np.float32)
    codes, scales = row_codes(weight, Int8Range(7, ""))
    assert codes.tolist() == [[31, -63, 16], [0, 0, 0], [63, 0, -63]]
    np.testing.assert_allclose(scales, [2 / 63, 1, 1e-3 / 63], rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)])
def test_activation_codes_hold_zero_exactly(low: float, high: float) -> None:
    scale, zero_point = activation_scale(low, high)
    assert scale > 0 and 0 <= zero_point <= 255
    # the ends of the range are within half a step of a code
    for value in (min(low, 0.0), max(high, 0.0)):
        assert (
            abs(round(value / scale) + zero_point - np.clip(round(value / scale) + zero_point, 0, 255)) <= 1
        )
