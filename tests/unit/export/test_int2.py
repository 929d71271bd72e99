"""INT2 in the containers that can hold it: the same weights in each, their engines right as shipped, damage found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeport.export.checkpoint import Checkpoint, weights_id
from edgeport.export.families.table import read_spec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.formats.table import get_format
from edgeport.export.quantize.run import quantize
from edgeport.export.recipe import load_recipe, scheme_warnings
from edgeport.export.source import open_source
from edgeport.export.verify.container import weight_digests
from edgeport.export.verify.golden import compare, compute_golden
from edgeport.progress import NO_PROGRESS
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

ENTRY_POINTS = {
    "onnx": "onnx/model.onnx",
    "openvino": "openvino/openvino_model.xml",
    "safetensors": "safetensors/config.json",
}
DAMAGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module", params=["tiny_llama_dir", "tiny_qwen2_dir"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint/ and the containers of one model with recipe int2, rounded to nearest."""
    folder = tmp_path_factory.mktemp("int2")
    source = open_source(str(request.getfixturevalue(request.param)))
    (folder / "checkpoint").mkdir()
    recipe = replace(load_recipe("int2"), solver="rtn")
    quantize(source, recipe, folder / "checkpoint", threads=1, progress=NO_PROGRESS)
    checkpoint = Checkpoint(folder / "checkpoint", source.spec)
    assert checkpoint.record(DAMAGED).kind == "int2"
    for name in ENTRY_POINTS:
        (folder / name).mkdir()
        get_format(name).write(checkpoint, folder / name, WriteOptions("tiny", 128, NO_PROGRESS))
    return folder


def recorded(folder: Path) -> dict[str, str]:
    document = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())
    return {item["name"]: item["digest"] for item in document["tensors"]}


def read_back(folder: Path, name: str) -> dict[str, str]:
    return weight_digests(name, str(folder / ENTRY_POINTS[name]))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_same_weights_are_read_back(packed: Path, name: str) -> None:
    assert weights_id(read_back(packed, name)) == weights_id(recorded(packed))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_engines_agree_with_the_reference_exactly_and_as_shipped(packed: Path, name: str) -> None:
    golden = compute_golden(packed / "safetensors")
    for exact, allowed in ((True, 1e-3), (False, 0.2)):
        options = SessionOptions(threads=1, context_length=128, exact=exact)
        session = open_session(name, packed / ENTRY_POINTS[name], options)
        try:
            assert compare(session, golden).relative_error < allowed
        finally:
            session.close()


def flip_onnx(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    name = DAMAGED.replace(".weight", ".weight_codes")
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    flip(folder / "model.onnx.data", offset + 5)


def flip_openvino(folder: Path) -> None:
    text = (folder / "openvino_model.xml").read_text()
    after = text[text.index(f'name="{DAMAGED}" type="Const"') :]
    flip(folder / "openvino_model.bin", int(after.split('offset="')[1].split('"')[0]) + 5)


def flip_safetensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    flip(path, 8 + length + header[f"{DAMAGED}_packed"]["data_offsets"][0] + 5)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


FLIPS: dict[str, Callable[[Path], None]] = {
    "onnx": flip_onnx,
    "openvino": flip_openvino,
    "safetensors": flip_safetensors,
}


@pytest.mark.parametrize("name", FLIPS)
def test_one_flipped_bit_is_found_in_its_tensor(packed: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(packed / name, tmp_path / name)
    FLIPS[name](tmp_path / name)
    found, want = read_back(tmp_path, name), recorded(packed)
    assert [tensor for tensor in want if found[tensor] != want[tensor]] == [DAMAGED]


def test_four_weights_share_a_byte(packed: Path) -> None:
    spec = read_spec(json.loads((packed / "checkpoint/source/config.json").read_text()))
    tensor = Checkpoint(packed / "checkpoint", spec).tensor(DAMAGED)
    assert tensor.payload.nbytes * 4 == np.prod(tensor.shape)
    assert set(np.unique(tensor.codes())) == {-2, -1, 0, 1}


def test_openvinos_dynamic_quantization_is_off(packed: Path) -> None:
    """The CPU plug-in answers u2 weights with nothing at all when it quantizes activations in bfloat16."""
    setting = '<DYNAMIC_QUANTIZATION_GROUP_SIZE value="0"'
    assert setting in (packed / "openvino" / "openvino_model.xml").read_text()


def test_gguf_refuses_and_names_its_own_format(tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    schemes = sorted({load_recipe("int2").scheme_for(item) for item in source.spec.tensors()}, key=str)
    (reason,) = get_format("gguf").reasons_against(source.spec, schemes, tiny_llama_dir)
    assert "gguf-q2_k" in reason
    for name in ENTRY_POINTS:
        assert get_format(name).reasons_against(source.spec, schemes, tiny_llama_dir) == []


def test_warnings_tell_what_two_bits_cost() -> None:
    assert scheme_warnings(load_recipe("int4")) == []
    (with_solver,) = scheme_warnings(replace(load_recipe("int2"), solver="gptq"))
    assert "perplexity" in with_solver
    rounded = scheme_warnings(replace(load_recipe("int2"), solver="rtn"))
    assert len(rounded) == 2 and "solver" in rounded[1]
