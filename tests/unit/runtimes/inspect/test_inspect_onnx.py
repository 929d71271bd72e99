"""ONNX models through an inspection: facts as the onnx package has them, verdicts as onnxruntime has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeport.errors import UsageError
from edgeport.runtimes.inspect import onnx_problems
from edgeport.runtimes.inspect.document import Inspection
from edgeport.runtimes.inspect.open import inspect_path

Change = Callable[[Path], None]


def in_graph(change: Callable[[onnx.ModelProto], None]) -> Change:
    """The graph of a folder changed; its data file stays."""

    def write(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return write


def in_json(name: str, *path: str, value: Any) -> Change:
    def write(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / name).write_text(json.dumps(document))

    return write


def set_location(model: onnx.ModelProto, location: str) -> None:
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = location


def set_level(model: onnx.ModelProto, level: int) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level


def set_opset(model: onnx.ModelProto, version: int) -> None:
    next(item for item in model.opset_import if item.domain == "").version = version


def set_ir(model: onnx.ModelProto, version: int) -> None:
    model.ir_version = version


def widen(model: onnx.ModelProto) -> None:
    """An initializer in the file itself with one number more than it has bytes for."""
    item = next(item for item in model.graph.initializer if item.raw_data and item.dims)
    item.dims[0] += 1


def cut_data(folder: Path) -> None:
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-100])


def repeat_head(folder: Path) -> None:
    """The head's codes become a copy of the embedding's, at a place of their own."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    items = {item.name: item for item in model.graph.initializer}
    embedding = next(
        item for name, item in items.items() if "embed_tokens" in name and item.data_type == TensorProto.UINT8
    )
    product = next(node for node in model.graph.node if "logits" in node.output)
    head = items[product.input[1]]
    places = [{entry.key: entry.value for entry in item.external_data} for item in (embedding, head)]
    data = folder / "model.onnx.data"
    content = bytearray(data.read_bytes())
    begin, length = int(places[0]["offset"]), int(places[0]["length"])
    assert length == int(places[1]["length"])
    at = int(places[1]["offset"])
    if at == begin:  # shared already: give the head a place behind everything
        at = len(content)
        content += bytes(length)
        next(entry for entry in head.external_data if entry.key == "offset").value = str(at)
    content[at : at + length] = content[begin : begin + length]
    data.write_bytes(content)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


REFUSED: Mapping[str, tuple[Change, str]] = {
    "no data": (lambda folder: (folder / "model.onnx.data").unlink(), "model.onnx.data is missing"),
    "short data": (cut_data, "its initializers end at"),
    "outside": (in_graph(lambda model: set_location(model, "../model.onnx.data")), "outside of the model's folder"),
    "IR": (in_graph(lambda model: set_ir(model, 99)), "IR version 99"),
    "opset": (in_graph(lambda model: set_opset(model, 99)), "opset 99"),
    "wide": (in_graph(widen), "needs"),
}  # fmt: skip
FOUND: Mapping[str, tuple[Change, str, str]] = {
    "level": (in_graph(lambda model: set_level(model, 0)), "warning", "accuracy_level 0"),
    "head": (repeat_head, "warning", "repeats the embedding"),
    "context": (in_json("genai_config.json", "model", "context_length", value=0), "error", "context length is 0"),
    "template": (lambda folder: (folder / "chat_template.jinja").unlink(), "warning", "no chat template"),
    "ends": (in_json("generation_config.json", "eos_token_id", value=7), "warning", "end (eos) token is"),
    "vocabulary": (
        in_json("tokenizer.json", "model", "vocab", "surplus", value=600), "error", "ids up to 600, the embedding has 512",
    ),
    "tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "error", "tokenizer.json is not JSON"),
}  # fmt: skip


@pytest.fixture
def folder(packed_dir: Path, tmp_path: Path) -> Path:
    """A container of edgeport's; what it says is also in the files that other exporters leave."""
    copy = Path(shutil.copytree(packed_dir / "onnx", tmp_path / "onnx"))
    generation = copy / "generation_config.json"
    if not generation.is_file():
        generation.write_text(json.dumps({"eos_token_id": 2}))
    return copy


def errors(found: Inspection) -> list[str]:
    return [problem.what for problem in found.problems if problem.severity == "error"]


def opens(folder: Path) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime has a type of its own for each code
        return False
    return True


def test_facts_are_those_of_the_model(folder: Path, packed_dir: Path) -> None:
    found = inspect_path(folder)
    same = inspect_path(next((packed_dir / "gguf").glob("*.gguf")))
    assert found.parameters == same.parameters
    assert found.shapes.layers == 2 and found.shapes.context_length == 256
    assert (found.shapes.kv_heads, found.shapes.head_dim, found.shapes.vocab_size) == (2, 16, 512)
    model = onnx.load(folder / "model.onnx")
    assert found.made_by == "edgeport"
    assert found.quantization == "MatMulNBits 4 bit in blocks of 32, MatMulNBits 8 bit in blocks of 32"
    stored = {item.name: numpy_helper.to_array(item).nbytes for item in model.graph.initializer}
    assert found.size_bytes == sum(stored.values())  # this model's head is one of its own
    assert [item.accepted for item in found.engines] == [True, True] and found.problems == ()
    assert inspect_path(folder / "model.onnx").tensor_types == found.tensor_types


@pytest.mark.parametrize("name", REFUSED)
def test_what_onnxruntime_refuses_is_told(name: str, folder: Path) -> None:
    change, text = REFUSED[name]
    assert opens(folder)
    change(folder)
    found = inspect_path(folder)
    assert any(text in told for told in errors(found)) and not found.engines[0].accepted
    assert not opens(folder)


@pytest.mark.parametrize("name", FOUND)
def test_what_onnxruntime_takes_is_accepted_and_told(name: str, folder: Path) -> None:
    change, severity, text = FOUND[name]
    change(folder)
    found = inspect_path(folder)
    assert [problem.severity for problem in found.problems if text in problem.what] == [severity], (
        found.problems
    )
    assert len(found.problems) == 1
    assert opens(folder)


def test_the_newest_versions_are_those_onnxruntime_takes(folder: Path) -> None:
    for change, newest in (
        (set_ir, onnx_problems.NEWEST_IR_VERSION),
        (set_opset, onnx_problems.NEWEST_OPSET),
    ):
        for version, accepted in ((newest, True), (newest + 1, False)):
            in_graph(lambda model, change=change, version=version: change(model, version))(folder)
            assert opens(folder) is accepted, (change.__name__, version)
            assert (not errors(inspect_path(folder))) is accepted
        in_graph(lambda model, change=change, newest=newest: change(model, newest))(folder)


def test_without_its_configuration_the_cache_is_unknown(folder: Path) -> None:
    (folder / "genai_config.json").unlink()
    found = inspect_path(folder)
    assert found.engines[0].accepted, "the graph itself says how large its cache is"
    assert not found.engines[1].accepted and "no genai_config.json" in found.engines[1].reason
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in inspect_path(folder).engines[0].reason


def encoder(path: Path, *, fused: bool) -> Path:
    """One attention over token embeddings: by the fused operator, or by products and a Softmax."""
    width, vocabulary = 8, 32
    random = np.random.default_rng(1)
    table = numpy_helper.from_array(
        random.normal(size=(vocabulary, width)).astype(np.float32), "embeddings.word_embeddings.weight"
    )
    weight = numpy_helper.from_array(random.normal(size=(width, 3 * width)).astype(np.float32), "qkv.weight")
    bias = numpy_helper.from_array(np.zeros(3 * width, np.float32), "qkv.bias")
    nodes = [helper.make_node("Gather", ["embeddings.word_embeddings.weight", "input_ids"], ["hidden"])]
    if fused:
        nodes.append(
            helper.make_node(
                "Attention",
                ["hidden", "qkv.weight", "qkv.bias"],
                ["last_hidden_state"],
                domain="com.microsoft",
                num_heads=2,
            )
        )
    else:
        nodes += [
            helper.make_node("Transpose", ["hidden"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["hidden", "turned"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["shares"]),
            helper.make_node("MatMul", ["shares", "hidden"], ["last_hidden_state"]),
        ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", width])],
        [table, weight, bias] if fused else [table],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="a test"), path)
    return path


def test_an_encoder_whose_attention_is_not_fused(tmp_path: Path) -> None:
    fused = inspect_path(encoder(tmp_path / "fused.onnx", fused=True))
    assert fused.problems == () and fused.chat_template is None
    assert fused.parameters == 32 * 8 + 8 * 24 + 24 and fused.engines[0].accepted
    plain = inspect_path(encoder(tmp_path / "plain.onnx", fused=False))
    assert ["attention is not fused" in problem.what for problem in plain.problems] == [True]
    assert plain.parameters == 32 * 8 and plain.made_by == "a test"


def test_a_tokenizer_that_is_too_large_for_an_encoder(tmp_path: Path, tiny_llama_dir: Path) -> None:
    encoder(tmp_path / "model.onnx", fused=True)
    shutil.copy(tiny_llama_dir / "tokenizer.json", tmp_path)
    assert "ids up to 511, the embedding has 32 rows" in errors(inspect_path(tmp_path))[0]


def test_merged_and_cacheless_decoders_are_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 32})
    )
    encoder(tmp_path / "model.onnx", fused=False)
    assert "it has no key-value cache" in inspect_path(tmp_path).engines[0].reason
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    onnx.save(model, tmp_path / "model.onnx")
    assert "merged decoder" in inspect_path(tmp_path).engines[0].reason


@pytest.mark.parametrize(
    "damage", [b"", b"\x3a", b"\x00" * 50, b"no model at all", b"\x3a\x80\x80\x80\x80\x10abc"]
)
def test_what_is_no_onnx_cannot_be_read(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(damage)
    with pytest.raises(UsageError):
        inspect_path(tmp_path / "x.onnx")
