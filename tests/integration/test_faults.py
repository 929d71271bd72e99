"""`edgeport verify` on damaged copies: each fault in each container is found, named, and ends with exit code 1.

Checksums alone would find every damage, so the manifest's sizes and sha256 are mended after the damage, as a writer that
errs would have written them: what is left to find it are the independent readers, token parity and the logits. One copy
carries one kind of fault in all four containers, and all copies are verified once, two at a time.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import gguf
import numpy as np
import onnx
import pytest

from edgeport.manifest import file_entry, read_manifest, write_manifest

Edgeport = Callable[..., subprocess.CompletedProcess[str]]
Damage = Callable[[Path, Path], None]
"""damage(container's folder, the same container of another model)"""

TENSOR = "model.layers.1.mlp.down_proj.weight"
FORMATS = ("gguf", "onnx", "openvino", "safetensors")
OTHER_THETA, OTHER_EPSILON = 500000.0, 0.03


def exchange_first_scales(data: Any) -> None:
    """Exchange the first 16-bit scale with the next one that differs."""
    for at in range(2, len(data), 2):
        if bytes(data[at : at + 2]) != bytes(data[:2]):
            first = bytes(data[:2])
            data[:2] = data[at : at + 2]
            data[at : at + 2] = first
            return
    raise AssertionError("all scales are equal")


def flip_bit(data: Any) -> None:
    data[5] ^= 0x10


# gguf: through the gguf package's memory map


def gguf_reader(folder: Path) -> gguf.GGUFReader:
    (path,) = folder.glob("*.gguf")
    return gguf.GGUFReader(path, "r+")


def gguf_blocks(reader: gguf.GGUFReader) -> Any:
    """Bytes of the blocks [blocks, 18]: a float16 scale and 16 bytes of codes."""
    (tensor,) = [item for item in reader.tensors if item.name == "blk.1.ffn_down.weight"]
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0
    return tensor.data.reshape(-1, 18)


def gguf_flipped_code(folder: Path, other: Path) -> None:
    reader = gguf_reader(folder)
    gguf_blocks(reader)[3, 2 + 5] ^= 0x10
    reader.data.flush()


def gguf_swapped_scale(folder: Path, other: Path) -> None:
    reader = gguf_reader(folder)
    blocks = gguf_blocks(reader)
    scales = bytearray(blocks[:, :2].tobytes())
    exchange_first_scales(scales)
    blocks[:, :2] = np.frombuffer(scales, np.uint8).reshape(-1, 2)
    reader.data.flush()


def gguf_value(folder: Path, key: str) -> tuple[gguf.GGUFReader, Any]:
    reader = gguf_reader(folder)
    field = reader.fields[key]
    return reader, field.parts[field.data[0]]


def gguf_number(key: str, number: float) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        reader, value = gguf_value(folder, key)
        assert value[0] != number
        value[0] = number
        reader.data.flush()

    return damage


def gguf_pre_tokenizer(folder: Path, other: Path) -> None:
    reader, name = gguf_value(folder, "tokenizer.ggml.pre")
    assert bytes(name) == b"gpt-2"
    name[:] = np.frombuffer(b"qwen2", np.uint8)
    reader.data.flush()


def gguf_token_list(folder: Path, other: Path) -> None:
    """Two tokens of one length change places: every id stays valid, the text is another."""
    reader = gguf_reader(folder)
    field = reader.fields["tokenizer.ggml.tokens"]
    tokens = [field.parts[index] for index in field.data]
    first, second = [token for token in tokens if token.size == 3][-2:]
    kept = first.copy()
    first[:], second[:] = second, kept
    reader.data.flush()


def truncated(pattern: str) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[:-40])

    return damage


# onnx: initializers inline or in the external file


def onnx_edit(folder: Path, name: str, edit: Callable[[Any], None]) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        data = bytearray(tensor.raw_data)
        edit(data)
        tensor.raw_data = bytes(data)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        return
    place = {item.key: item.value for item in tensor.external_data}
    edit_range(folder / place["location"], int(place["offset"]), int(place["length"]), edit)


def edit_range(path: Path, offset: int, length: int, edit: Callable[[Any], None]) -> None:
    data = bytearray(path.read_bytes())
    piece = data[offset : offset + length]
    edit(piece)
    data[offset : offset + length] = piece
    path.write_bytes(data)


def onnx_initializer(suffix: str, edit: Callable[[Any], None]) -> Damage:
    name = TENSOR.removesuffix(".weight")
    return lambda folder, other: onnx_edit(folder, f"{name}.{suffix}", edit)


def onnx_epsilon(folder: Path, other: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    epsilons = [item for node in model.graph.node for item in node.attribute if item.name == "epsilon"]
    assert len(epsilons) == 5
    for item in epsilons:
        item.f = OTHER_EPSILON
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def onnx_wiring(folder: Path, other: Path) -> None:
    """The attention takes sines for cosines."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            cosines, sines = list(node.input).index("cos_cache"), list(node.input).index("sin_cache")
            node.input[cosines], node.input[sines] = "sin_cache", "cos_cache"
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def onnx_residual(folder: Path, other: Path) -> None:
    """The MLP's gate and up projections change places behind unchanged weights."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    names = ("model.layers.0.mlp.gate_proj.output", "model.layers.0.mlp.up_proj.output")
    for node in model.graph.node:
        if node.op_type in ("Sigmoid", "Mul"):
            node.input[:] = [
                dict(zip(names, reversed(names), strict=True)).get(item, item) for item in node.input
            ]
    (folder / "model.onnx").write_bytes(model.SerializeToString())


# openvino: constants of the .bin by the names in the .xml


def openvino_constants(folder: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for layer in ElementTree.parse(folder / "openvino_model.xml").iter("layer"):
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            place = int(data.get("offset", "")), int(data.get("size", "")), data.get("element_type", "")
            found[layer.get("name", "")] = place
    return found


def openvino_constant(name: str, edit: Callable[[Any], None]) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        offset, length, _ = openvino_constants(folder)[name]
        edit_range(folder / "openvino_model.bin", offset, length, edit)

    return damage


def openvino_epsilon(folder: Path, other: Path) -> None:
    path = folder / "openvino_model.bin"
    raw = path.read_bytes()
    scalars = {
        offset for offset, size, kind in openvino_constants(folder).values() if size == 4 and kind == "f32"
    }
    found = [offset for offset in scalars if abs(struct.unpack_from("<f", raw, offset)[0] - 1e-5) < 1e-8]
    assert found
    for offset in found:
        edit_range(path, offset, 4, floats([OTHER_EPSILON]))


def floats(values: Any) -> Callable[[Any], None]:
    def edit(data: Any) -> None:
        changed = np.asarray(values, "<f4").tobytes()
        assert len(changed) == len(data) and changed != bytes(data)
        data[:] = changed

    return edit


OTHER_FREQUENCIES = OTHER_THETA ** -(np.arange(0, 16, 2) / 16)


# safetensors: header parsed by hand


def safetensors_tensor(name: str, edit: Callable[[Any], None]) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        start, stop = json.loads(raw[8 : 8 + length])[name]["data_offsets"]
        edit_range(path, 8 + length + start, stop - start, edit)

    return damage


def safetensors_config(change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        change(document)
        (folder / "config.json").write_text(json.dumps(document))

    return damage


def other_files(*names: str) -> Damage:
    def damage(folder: Path, other: Path) -> None:
        for name in names:
            assert (folder / name).read_bytes() != (other / name).read_bytes()
            shutil.copyfile(other / name, folder / name)

    return damage


def change_theta(config: dict[str, Any]) -> None:
    config["rope_parameters"]["rope_theta"] = OTHER_THETA


def change_epsilon(config: dict[str, Any]) -> None:
    config["rms_norm_eps"] = OTHER_EPSILON


@dataclass(frozen=True, slots=True)
class Fault:
    """damages by format; the check that must say no and what it must name; whether the manifest is mended.

    slow: left to `make test-all`.
    """

    check: str
    damages: Mapping[str, Damage]
    named: Mapping[str, str]
    mended: bool = True
    slow: bool = False


ALL_NAME_THE_TENSOR = dict.fromkeys(FORMATS, TENSOR)
FLIPPED = {
    "gguf": gguf_flipped_code,
    "onnx": onnx_initializer("weight_codes", flip_bit),
    "openvino": openvino_constant(TENSOR, flip_bit),
    "safetensors": safetensors_tensor(f"{TENSOR}_packed", flip_bit),
}
SWAPPED = {
    "gguf": gguf_swapped_scale,
    "onnx": onnx_initializer("weight_scales", exchange_first_scales),
    "openvino": openvino_constant(f"{TENSOR}/scale", exchange_first_scales),
    "safetensors": safetensors_tensor(f"{TENSOR}_scale", exchange_first_scales),
}
TRUNCATED = {
    "gguf": truncated("*.gguf"),
    "onnx": truncated("model.onnx.data"),
    "openvino": truncated("openvino_model.bin"),
    "safetensors": truncated("model.safetensors"),
}
WRONG_TOKENIZER = {
    "gguf": gguf_pre_tokenizer,
    "onnx": other_files("tokenizer.json"),
    "openvino": other_files("openvino_tokenizer.xml", "openvino_tokenizer.bin"),
    "safetensors": other_files("tokenizer.json", "tokenizer_config.json"),
}
WRONG_THETA = {
    "gguf": gguf_number("llama.rope.freq_base", OTHER_THETA),
    "onnx": lambda folder, other: onnx_edit(folder, "rope.frequencies", floats(OTHER_FREQUENCIES)),
    "openvino": openvino_constant("rope_inverse_frequencies", floats(OTHER_FREQUENCIES)),
    "safetensors": safetensors_config(change_theta),
}
WRONG_EPSILON = {
    "gguf": gguf_number("llama.attention.layer_norm_rms_epsilon", OTHER_EPSILON),
    "onnx": onnx_epsilon,
    "openvino": openvino_epsilon,
    "safetensors": safetensors_config(change_epsilon),
}
FILES = {
    "gguf": "gguf/",
    "onnx": "onnx/model.onnx",
    "openvino": "openvino/openvino_model.bin",
    "safetensors": "safetensors/model.safetensors",
}
FOLDERS = {container: f"{container}/" for container in FORMATS}
FAULTS = {
    "flipped code": Fault("weights", FLIPPED, ALL_NAME_THE_TENSOR),
    "swapped scale": Fault("weights", SWAPPED, ALL_NAME_THE_TENSOR),
    "truncated": Fault("weights", TRUNCATED, FILES),
    "truncated, told by the checksum": Fault("files", TRUNCATED, FILES, mended=False, slow=True),
    "wrong tokenizer": Fault("tokens", WRONG_TOKENIZER, dict.fromkeys(FORMATS, "differently")),
    "wrong rope theta": Fault("logits", WRONG_THETA, dict.fromkeys(FORMATS, "logits differ")),
    "wrong epsilon": Fault("logits", WRONG_EPSILON, dict.fromkeys(FORMATS, "logits differ"), slow=True),
    "exchanged tokens": Fault("tokens", {"gguf": gguf_token_list}, {"gguf": "differently"}),
    "sines for cosines": Fault("logits", {"onnx": onnx_wiring}, {"onnx": "logits differ"}),
    "gate for up": Fault("logits", {"onnx": onnx_residual}, {"onnx": "logits differ"}),
}
FAULTS |= {
    f"{name}, told by the checksum": replace(
        FAULTS[name], check="files", mended=False, named=FOLDERS, slow=True
    )
    for name in ("flipped code", "swapped scale", "wrong rope theta", "wrong tokenizer")
}
# Reading packed safetensors imports torch and transformers twice per verification: two kinds of fault are enough for `make test`.
for name in ("swapped scale", "truncated", "wrong rope theta"):
    whole = FAULTS[name]
    alone = {"safetensors": whole.damages["safetensors"]}
    others = {container: damage for container, damage in whole.damages.items() if container not in alone}
    FAULTS |= {
        name: replace(whole, damages=others),
        f"{name}, safetensors": replace(whole, damages=alone, slow=True),
    }


def cases(*, mended_only: bool) -> list[Any]:
    return [
        pytest.param(name, container, marks=pytest.mark.slow if fault.slow else ())
        for name, fault in FAULTS.items()
        for container in fault.damages
        if fault.mended or not mended_only
    ]


def planted(fault: Fault, artifact: Path, other: Path, copy: Path) -> Path:
    shutil.copytree(artifact, copy)
    for container, damage in fault.damages.items():
        before = {path: path.read_bytes() for path in (copy / container).iterdir()}
        damage(copy / container, other / container)
        after = {path: path.read_bytes() for path in (copy / container).iterdir()}
        assert before != after, f"nothing was planted in {container}"
    if fault.mended:
        mend(copy)
    return copy


def mend(artifact: Path) -> None:
    """Write the sizes and checksums of the damaged files into the manifest."""
    manifest = read_manifest(artifact)
    containers = []
    for entry in manifest.containers:
        files = tuple(file_entry(artifact / file.path, artifact) for file in entry.files)
        containers.append(replace(entry, files=files, size_bytes=sum(file.size_bytes for file in files)))
    write_manifest(replace(manifest, containers=tuple(containers)), artifact)


@dataclass(frozen=True, slots=True)
class Verdict:
    exit_code: int
    checks: Mapping[tuple[str, str], tuple[bool, str]]
    """(passed, detail) by container and check"""


def verify(edgeport: Edgeport, artifact: Path, formats: Mapping[str, Any]) -> Verdict:
    done = edgeport("verify", artifact, "--json", "--quiet", "--format", ",".join(formats))
    assert done.returncode in (0, 1), done.stderr
    checks = json.loads(done.stdout)["checks"]
    found = {(item["container"], item["name"]): (item["passed"], item["detail"]) for item in checks}
    return Verdict(done.returncode, found)


Judge = Callable[[str], Verdict]


@pytest.fixture(scope="session")
def judge(
    llama_artifact: Path,
    qwen2_artifact: Path,
    edgeport: Edgeport,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Judge:
    """judge("swapped scale") -> the verdict on a copy with that fault; those of the selected tests run two at a time."""
    folder = tmp_path_factory.mktemp("faults")

    def plant_and_verify(name: str) -> Verdict:
        copy = planted(FAULTS[name], llama_artifact, qwen2_artifact, folder / name)
        return verify(edgeport, copy, FAULTS[name].damages)

    selected = {
        item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")
    }
    pool = ThreadPoolExecutor(2)
    running = {name: pool.submit(plant_and_verify, name) for name in FAULTS if name in selected}
    request.addfinalizer(lambda: pool.shutdown(cancel_futures=True))
    return lambda name: running[name].result()


@pytest.mark.parametrize(("name", "container"), cases(mended_only=False))
def test_a_planted_fault_is_found_and_named(name: str, container: str, judge: Judge) -> None:
    fault, verdict = FAULTS[name], judge(name)
    assert verdict.exit_code == 1
    passed, detail = verdict.checks[container, fault.check]
    assert not passed, f"{container} passed {fault.check}: {detail}"
    assert fault.named[container] in detail


@pytest.mark.parametrize(("name", "container"), cases(mended_only=True))
def test_mended_checksums_do_not_tell(name: str, container: str, judge: Judge) -> None:
    """Otherwise the tests above would prove the checksum only."""
    checks = judge(name).checks
    assert checks[container, "files"][0]
    if FAULTS[name].check in ("tokens", "logits"):
        assert checks[container, "weights"][0]


def test_an_untouched_copy_passes(llama_artifact: Path, tmp_path: Path, edgeport: Edgeport) -> None:
    """From another folder, because an artifact is shipped; and with its source model out of reach."""
    copy = tmp_path / "a copy"
    shutil.copytree(llama_artifact, copy)
    done = edgeport("verify", copy, "--quiet", "--format", "gguf,onnx,openvino")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("tensor", ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_the_manifest_alone_cannot_be_swapped(
    tensor: str, llama_artifact: Path, qwen2_artifact: Path, tmp_path: Path, edgeport: Edgeport
) -> None:
    """Another model's digests under this artifact's files: the weights that are there say no."""
    copy = tmp_path / "copy"
    shutil.copytree(llama_artifact, copy)
    digests = json.loads((copy / "weights.json").read_text())
    digests[tensor] = json.loads((qwen2_artifact / "weights.json").read_text())[tensor]
    (copy / "weights.json").write_text(json.dumps(digests))
    done = edgeport("verify", copy, "--quiet", "--format", "gguf")
    assert done.returncode == 1 and "weights.json gives weights_id" in done.stdout
