"""OpenVINO models through an inspection: facts as openvino has them, and what its compiler does with packed weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.engines import unavailable_because
from edgeport.runtimes.inspect.document import Inspection
from edgeport.runtimes.inspect.open import inspect_path
from edgeport.runtimes.inspect.openvino_header import read_openvino_header
from edgeport.runtimes.inspect.openvino_weights import weights

if (reason := unavailable_because("openvino")) is not None:
    pytest.skip(reason, allow_module_level=True)

import openvino
import openvino.opset13 as operators

Change = Callable[[Path], None]
ROWS, COLUMNS = 96, 64


@pytest.fixture
def folder(packed_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed_dir / "openvino", tmp_path / "openvino"))


def opens(folder: Path) -> bool:
    try:
        openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU")
    except RuntimeError:
        return False
    return True


def errors(found: Inspection) -> list[str]:
    return [problem.what for problem in found.problems if problem.severity == "error"]


def in_xml(before: str, after: str) -> Change:
    def write(folder: Path) -> None:
        file = folder / "openvino_model.xml"
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after, 1))

    return write


def cut_weights(folder: Path) -> None:
    file = folder / "openvino_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])


def set_json(name: str, **values: Any) -> Change:
    def write(folder: Path) -> None:
        document = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(json.dumps(document))

    return write


REFUSED: Mapping[str, tuple[Change, str]] = {
    "no weights": (lambda folder: (folder / "openvino_model.bin").unlink(), "openvino_model.bin is missing"),
    "short weights": (cut_weights, "the .xml's constants end at"),
    "version": (in_xml('version="11"', 'version="12"'), "IR version 12"),
}
FOUND: Mapping[str, tuple[Change, str, str]] = {
    "context": (set_json("config.json", max_position_embeddings=0), "error", "context length is 0"),
    "ends": (set_json("config.json", eos_token_id=9), "warning", "end (eos) token is 9 in config.json"),
}


def test_facts_are_those_of_the_model(folder: Path, packed_dir: Path) -> None:
    found = inspect_path(folder)
    same = inspect_path(next((packed_dir / "gguf").glob("*.gguf")))
    assert found.parameters == same.parameters and found.family == "qwen2"
    assert found.shapes == same.shapes
    assert found.made_by == "edgeport"
    assert found.quantization == "u4, u8" or found.quantization == "u8, u4"
    assert found.problems == () and found.engines[0].accepted
    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    kinds = {node.get_element_type().get_type_name() for node in constants}
    assert {item.type for item in found.tensor_types} <= kinds  # equal bytes of two types are stored once
    assert found.size_bytes <= sum(node.get_byte_size() for node in constants)
    assert found.size_bytes == (folder / "openvino_model.bin").stat().st_size


@pytest.mark.parametrize("name", REFUSED)
def test_what_openvino_refuses_is_told(name: str, folder: Path) -> None:
    change, text = REFUSED[name]
    assert opens(folder)
    change(folder)
    found = inspect_path(folder)
    assert any(text in told for told in errors(found)) and not found.engines[0].accepted
    assert not opens(folder)


@pytest.mark.parametrize("name", FOUND)
def test_what_openvino_takes_is_accepted_and_told(name: str, folder: Path) -> None:
    change, severity, text = FOUND[name]
    change(folder)
    found = inspect_path(folder)
    assert [problem.severity for problem in found.problems if text in problem.what] == [severity], (
        found.problems
    )
    assert found.engines[0].accepted


def test_without_any_tokenizer_it_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert inspect_path(folder).engines[0].accepted == (folder / "openvino_tokenizer.xml").is_file()
    (folder / "openvino_tokenizer.xml").unlink(missing_ok=True)
    found = inspect_path(folder)
    assert not found.engines[0].accepted and "neither tokenizer.json" in found.engines[0].reason
    assert not found.engines[1].accepted and "convert_tokenizer" in found.engines[1].reason


def packed_product(path: Path, pattern: str) -> Path:
    """hidden [1, n, 64] times int8 codes [96, 64], made floats in one of several ways."""
    random = np.random.default_rng(3)
    codes = operators.constant(random.integers(-128, 127, (ROWS, COLUMNS)).astype(np.int8))
    scale = operators.constant(np.full((ROWS, 1), 0.01, np.float32))
    hidden = operators.parameter([1, -1, COLUMNS], np.float32, name="hidden")
    weight = operators.convert(codes, np.float32)
    if pattern != "no scale":
        weight = operators.multiply(weight, scale)
    product = operators.matmul(hidden, weight, False, True)
    product.output(0).set_names({"product"})
    model = openvino.Model([product], [hidden], "m")
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def kept_type(path: Path) -> str:
    """The element type in which the compiled model holds the weights."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        if facts.get("layerType") in ("FullyConnected", "MatMul"):
            return str(node.input_value(1).get_element_type().get_type_name())
    raise AssertionError("no product in the compiled model")


@pytest.mark.parametrize("pattern", ["scale", "no scale"])
def test_weights_that_do_not_stay_packed(pattern: str, tmp_path: Path) -> None:
    path = packed_product(tmp_path / "openvino_model.xml", pattern)
    found = inspect_path(path)
    told = [problem for problem in found.problems if "turns them into f32" in problem.what]
    assert [item.stays_packed for item in weights(read_openvino_header(path))] == [not told]
    assert (kept_type(path) == "f32") is bool(told) is (pattern == "no scale")
    assert found.parameters == ROWS * COLUMNS


def decoder_with_head(path: Path, *, repeated: bool) -> Path:
    """A lookup, and a head that is the same table: one constant, or two."""
    table = np.random.default_rng(4).normal(size=(50, 16)).astype(np.float32)
    tokens = operators.parameter([1, -1], np.int64, name="input_ids")
    embedding = operators.constant(table)
    hidden = operators.gather(embedding, tokens, operators.constant(0, np.int64))
    head = operators.constant(table) if repeated else embedding
    logits = operators.matmul(operators.tanh(hidden), head, False, True)
    logits.output(0).set_names({"logits"})
    openvino.save_model(openvino.Model([logits], [tokens], "m"), str(path), compress_to_fp16=False)
    if repeated:  # OpenVINO itself stores equal constants once; others do not
        weights, text = path.with_suffix(".bin"), path.read_text()
        at = text.rindex(f'size="{table.nbytes}"')
        begin = text.rindex('offset="0"', 0, at)
        size = weights.stat().st_size
        path.write_text(text[:begin] + f'offset="{size}"' + text[begin + len('offset="0"') :])
        weights.write_bytes(weights.read_bytes() + table.tobytes())
    return path


def test_a_head_that_repeats_the_embedding(tmp_path: Path) -> None:
    text = "repeats the embedding"
    shared = inspect_path(decoder_with_head(tmp_path / "shared.xml", repeated=False))
    assert not any(text in problem.what for problem in shared.problems) and shared.parameters == 800
    repeated = inspect_path(decoder_with_head(tmp_path / "repeated.xml", repeated=True))
    assert any(text in problem.what for problem in repeated.problems)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<",
        "<net",
        "<net name='x' version='11'></net>",
        "<html><body/></html>",
        "<!DOCTYPE net [<!ENTITY a 'aaaa'>]><net version='11'><layers><layer id='0' name='&a;' type='Result'/></layers></net>",
        "<net version='11'><layers>" + "<layer>" * 1000,
        "\0\0\0",
    ],
)
def test_what_is_no_ir_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(UsageError):
        inspect_path(tmp_path / "x.xml")
