"""Model folders through an inspection: facts as transformers has them, and what is wrong with damaged and packed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edgeport.errors import UsageError
from edgeport.runtimes.inspect.open import inspect_path

Change = Callable[[Path], None]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "tiny"))


def set_json(name: str, **values: Any) -> Change:
    """`...` takes a key out."""

    def write(folder: Path) -> None:
        document = json.loads((folder / name).read_text()) | values
        kept = {key: value for key, value in document.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept))

    return write


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def header_changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The JSON header of the weights rewritten, its data kept."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])


def overlap(header: dict[str, Any]) -> None:
    names = [name for name, item in header.items() if name != "__metadata__" and item["shape"] == [64]]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def repeat_head(folder: Path) -> None:
    """config.json says that the head is the embedding; a second file has one all the same."""
    save_file({"lm_head.weight": np.zeros((512, 64), np.float16)}, folder / "head.safetensors")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with safe_open(folder / "model-00001-of-00002.safetensors", "np") as stream:
        names = list(stream.keys())
    places = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def lost_tensor(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"nowhere.weight": "model.safetensors"}}))


def no_ends(folder: Path) -> None:
    set_json("config.json", eos_token_id=...)(folder)
    set_json("tokenizer_config.json", eos_token=...)(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


ERRORS: Mapping[str, tuple[Change, str]] = {
    "cut": (cut, "its tensors end at"),
    "overlap": (lambda folder: header_changed(folder, overlap), "overlap"),
    "pickled": (pickled, "pickled weights only (pytorch_model.bin)"),
    "empty": (lambda folder: (folder / "model.safetensors").unlink(), "there are no weights"),
    "shard": (missing_shard, "model-00002-of-00002.safetensors is missing: 1 of 2 shards"),
    "lost": (lost_tensor, "names 'nowhere.weight', which its file does not hold"),
    "index": (lambda folder: (folder / INDEX).write_text("[]"), "not an object"),
    "rows": (set_json("config.json", vocab_size=600), "[512, 64], config.json says [600, 64]"),
    "context": (set_json("config.json", max_position_embeddings=0), "max_position_embeddings is 0"),
    "ends": (no_ends, "no file names an end token"),
    "tokens": (
        lambda folder: set_json("tokenizer.json", added_tokens=[{"id": 900, "content": "<far>"}])(folder),
        "ids up to 900, the embedding has 512 rows",
    ),
}  # fmt: skip
WARNINGS: Mapping[str, tuple[Change, str]] = {
    "template": (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
    "head": (repeat_head, "the output head repeats the embedding"),
    "code": (set_json("config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"}), "auto_map"),
    "eos": (set_json("generation_config.json", eos_token_id=[5, 6]), "token is 2 in config.json and 5 and 6"),
    "bos": (set_json("config.json", bos_token_id=3), "begin (bos) token is 3 in config.json"),
}


def test_facts_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model, config = AutoModelForCausalLM.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    found = inspect_path(folder)
    assert found.parameters == model.num_parameters() and found.bits_per_weight == 16
    shapes = found.shapes
    assert (shapes.layers, shapes.hidden_size) == (config.num_hidden_layers, config.hidden_size)
    assert (shapes.heads, shapes.kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    assert (shapes.vocab_size, shapes.context_length) == (config.vocab_size, config.max_position_embeddings)
    assert found.tokenizer is not None and found.tokenizer.kind == "byte-level BPE"
    assert found.tokenizer.size == len(AutoTokenizer.from_pretrained(folder))
    assert found.chat_template and found.problems == () and found.engines[0].accepted
    assert inspect_path(folder / "model.safetensors") == inspect_path(folder / "config.json") == found


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_told_with_their_cure(name: str, folder: Path) -> None:
    change, text = ERRORS[name]
    change(folder)
    found = inspect_path(folder)
    assert any(
        problem.severity == "error" and text in problem.what and problem.cure for problem in found.problems
    ), found.problems
    assert found.has_errors


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings_are_told_and_nothing_else(name: str, folder: Path) -> None:
    change, text = WARNINGS[name]
    change(folder)
    found = inspect_path(folder)
    assert [problem.severity for problem in found.problems] == ["warning"], found.problems
    assert text in found.problems[0].what and found.engines[0].accepted


def packed(layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of one matrix [64 out, 128 in] at four bits as each tool stores it, and its quantization_config."""
    words, scales = np.zeros((64, 16), np.int32), np.ones((64, 4), np.float16)
    bits = {"quant_method": layout, "bits": 4, "group_size": 32}
    if layout == "compressed-tensors":
        shape = np.array([64, 128], np.int64)
        scheme = {"weights": {"num_bits": 4, "group_size": 32}, "targets": ["Linear"]}
        config = {"quant_method": layout, "format": "pack-quantized", "config_groups": {"group_0": scheme}}
        return {"x.weight_packed": words, "x.weight_scale": scales, "x.weight_shape": shape}, config
    if layout == "awq":
        turned = {"x.qweight": np.zeros((128, 8), np.int32), "x.qzeros": np.zeros((4, 8), np.int32)}
        return {**turned, "x.scales": np.ones((4, 64), np.float16)}, bits
    if layout == "gptq":
        turned = {"x.qweight": np.zeros((16, 64), np.int32), "x.qzeros": np.zeros((4, 8), np.int32)}
        return {**turned, "x.scales": np.ones((4, 64), np.float16), "x.g_idx": np.zeros(128, np.int32)}, bits
    state = {"x.weight.absmax": np.zeros(128, np.uint8), "x.weight.quant_map": np.zeros(16, np.float32)}
    state["x.weight.quant_state.bitsandbytes__nf4"] = np.zeros(80, np.uint8)
    codes = {"x.weight": np.zeros((64 * 128 // 2, 1), np.uint8)}
    return {**codes, **state}, {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize("layout", ["compressed-tensors", "awq", "gptq", "bitsandbytes"])
def test_packed_weights_count_as_they_were(layout: str, tmp_path: Path) -> None:
    tensors, quantization = packed(layout)
    norm = {"model.norm.weight": np.ones(64, np.float32)}
    save_file({**tensors, **norm}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    found = inspect_path(tmp_path)
    assert found.parameters == 64 * 128 + 64
    assert (
        found.quantization is not None
        and found.quantization.startswith(layout)
        and "4 bit" in found.quantization
    )
    assert found.engines[0].accepted and found.engines[0].reason.startswith("with ")
    assert found.size_bytes == sum(array.nbytes for array in (*tensors.values(), *norm.values()))


def test_the_packed_folder_of_edgeport(packed_dir: Path) -> None:
    found, same = (
        inspect_path(packed_dir / "safetensors"),
        inspect_path(next((packed_dir / "gguf").glob("*.gguf"))),
    )
    assert found.parameters == same.parameters and found.shapes == same.shapes
    assert found.quantization is not None and "pack-quantized" in found.quantization


def test_an_unknown_packing_is_refused(folder: Path) -> None:
    set_json("config.json", quantization_config={"quant_method": "magic"})(folder)
    assert "quant_method 'magic'" in inspect_path(folder).engines[0].reason


@pytest.mark.parametrize(
    "text", ["{", "[]", "5", "[" * 100_000, '{"a": ' * 100_000, '{"x": ' + "9" * 10_000 + "}", "\ud800"]
)
def test_a_config_that_cannot_be_read(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text, errors="surrogatepass")
    with pytest.raises(UsageError, match=r"config\.json"):
        inspect_path(folder)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UsageError, match="never opened"):
        inspect_path(tmp_path / "pytorch_model.bin")
