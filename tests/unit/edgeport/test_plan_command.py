"""`edgeport plan` through main(): exit codes, one JSON document with units in its keys, filters, the page, ways to name a model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeport.cli import main
from edgeport.devices.catalog import names
from edgeport.devices.known_models import load_known, read_known
from edgeport.devices.weights import weights_bytes
from edgeport.manifest import ContainerEntry, FileEntry, Manifest, ModelFacts, SourceFacts, write_manifest

REFERENCE = Path(__file__).parents[3] / "models" / "reference"
UNITS = re.compile(
    r"(_bytes|_bytes_per_s|_per_s|_context_length|context_length|_tokens|_bits|bits|_values_per_token|bytes_per_token|parameters"
    r"|_parameters|_parallel|_limit)$|^bytes$"
)
COUNTS = {
    "gpus", "layers", "heads", "batch", "experts", "experts_per_token", "first_layer", "end_layer", "hidden_size",
    "intermediate_size", "vocab_size", "before", "after",
}  # fmt: skip
"""Numbers that count things and so have no unit; a change's before and after have the unit its knob names."""


@pytest.fixture(autouse=True)
def user_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path / "user-devices"))


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["plan", *words])
    out, err = capsys.readouterr()
    return code, out, err


def document(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    code, out, _ = plan(capsys, *words, "--json")
    return code, json.loads(out)


def test_exit_0_when_it_fits_one_of_the_devices(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("llama-3.1-8b", "--precision", "int4", "--format", "gguf", "--device", "raspberry-pi-5-4gb")
    code, out, _ = plan(capsys, *words)
    assert code == 1 and "to fit" in out and "vllm" not in out
    code, out, _ = plan(capsys, *words, "--device", "raspberry-pi-5-8gb")
    assert code == 0
    assert "method:  int4 + structured pruning" in out and "launch:  edgeport run DIR" in out
    assert "tier server: A100 40GB class" in out and "peak " in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("llama-3.1-8b", "--device", "rasberry-pi-5-8gb"), "did you mean 'raspberry-pi-5-8gb'"),
        (("llama-3.1-8b", "--format", "ggfu"), "did you mean 'gguf'"),
        (("llama-3.1-8b", "--precision", "int5"), "did you mean 'int"),
        (("llama-3.1-8b", "--kind", "bord"), "did you mean 'board'"),
        (("llama-3.1-8b", "--tier", "edgy"), "did you mean 'edge'"),
        (("llama-3.1-9b",), "did you mean 'llama-3"),
        (("llama-3.1-8b", "--device", "edge", "--context", "200000"), "more than the 131072"),
        (("llama-3.1-8b", "--device", "edge", "--context", "0"), "at least 1"),
        (("llama-3.1-8b", "--device", "edge", "--batch", "0"), "at least 1"),
        (("llama-3.1-8b", "--device", "edge", "--kv-bits", "5"), "no KV cache has 5 bits"),
        (("llama-3.1-8b", "--device", "edge", "--tier", "cluster"), "no device of tier cluster"),
        ((), "a plan needs a MODEL"),
        (("--device", "edge", "--html", "x.html"), "--html draws the plan of a MODEL"),
    ],
)
def test_bad_usage_is_exit_2_with_the_cure(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = plan(capsys, *words)
    assert (code, out) == (2, "") and told in err


def test_a_model_that_no_engine_of_the_device_runs_is_exit_1_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = plan(capsys, "gpt2", "--device", "edge", "--format", "onnx")
    assert code == 1 and "edge: edgeport writes no onnx graph of family 'gpt2'" in out
    code, found = document(capsys, "gpt2", "--device", "edge", "--format", "onnx")
    assert code == 1 and found["rows"] == [] and found["devices"][0]["best"] is None


def numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from numbers(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield key, value


def test_every_number_of_the_document_has_a_unit_in_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(capsys, "llama-3.1-70b", "--device", "multi-gpu", "--device", "edge")
    assert code == 0 and found["fits"] is True
    bare = {key for key, _ in numbers(found) if not UNITS.search(key) and key not in COUNTS}
    assert not bare
    row = next(row for row in found["rows"] if row["precision"] == "f16" and row["engine"] == "vllm")
    assert row["gpus"] == 2 and len(row["split"]["stages"]) == 1
    assert {"required_bytes", "available_bytes", "largest_context_length", "verdict", "launch"} <= set(row)
    edge = next(device for device in found["devices"] if device["device"] == "edge")
    assert edge["best"]["verdict"] == "no" and edge["instead"]


def test_the_same_model_by_name_folder_and_config_gives_the_same_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = folder / "config.json"
    config.write_text(json.dumps(read_known("qwen2.5-0.5b")["config"]))
    words = ("--device", "edge", "--precision", "int4")
    plans = [document(capsys, name, *words)[1] for name in ("qwen2.5-0.5b", str(folder), str(config))]
    assert plans[0]["rows"] == plans[1]["rows"] == plans[2]["rows"]
    assert plans[1]["model"]["parameters"] == 494_032_768


def test_a_folder_of_float_weights_is_planned_in_every_precision(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = document(capsys, str(REFERENCE), "--device", "edge", "--format", "gguf")
    assert code == 0
    assert [row["precision"] for row in found["rows"]] == ["f16", "int8", "q4_k_m", "int4"]


def write_artifact(folder: Path) -> None:
    """An artifact's manifest with one ONNX container whose files are 1 MiB more than the recipe's bits ask for."""
    shape = load_known("smollm2-135m")
    size = weights_bytes(shape, "int4", "onnx").size_bytes + 2**20
    files = (FileEntry("onnx/model.onnx.data", size, ""), FileEntry("onnx/tokenizer.json", 10**6, ""))
    facts = ModelFacts(
        "llama", shape.parameters, 30, 576, 1536, 9, 3, 64, 49152, 8192, True, 4.9, 4 * 30 * 3 * 64
    )
    container = ContainerEntry("onnx", "onnx/model.onnx", files, size + 10**6, "id")
    source = SourceFacts("smollm2", "f", 1, "bf16")
    folder.mkdir()
    write_manifest(
        Manifest(
            "small", "now", source, {"name": "int4", "linear": "int4-g32"}, "edge", facts, "id", (container,)
        ),
        folder,
    )


def test_an_artifact_is_planned_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    code, found = document(capsys, str(tmp_path / "artifact"), "--device", "edge")
    (row,) = found["rows"]
    assert code == 0 and (row["format"], row["precision"]) == ("onnx", "int4")
    assert row["file_bytes"] == weights_bytes(load_known("smollm2-135m"), "int4", "onnx").size_bytes + 2**20
    assert found["conversion"] is None and found["devices"][0]["export_line"] == ""
    assert found["rows"][0]["advice"]["alone"] == []


def test_a_gguf_file_is_planned_as_it_is(capsys: pytest.CaptureFixture[str], gguf_file: Path) -> None:
    code, found = document(capsys, str(gguf_file), "--device", "edge")
    (row,) = found["rows"]
    assert code == 0 and (row["format"], row["precision"]) == ("gguf", "stored")
    beside = row["file_bytes"] - gguf_file.stat().st_size
    assert abs(beside) < 40 * 4096, "but for the vocabulary, which this file has not"


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A GGUF of the reference model in float16, header and zeros, by the gguf library."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    config = json.loads((REFERENCE / "config.json").read_text())
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    path = tmp_path / "reference-F16.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_vocab_size(vocab)
    key = hidden // heads * kv_heads
    shapes = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    for layer in range(2):
        for name, shape in {
            "attn_q": (hidden, hidden), "attn_k": (key, hidden), "attn_v": (key, hidden), "attn_output": (hidden, hidden),
            "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn), "attn_norm": (hidden,),
            "ffn_norm": (hidden,),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_without_devices_every_one_is_listed_with_its_best_container(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = plan(capsys, "smollm2-135m")
    assert code == 0
    for name in names():
        assert (f"\n{name} " in out) == (name != "host"), name
    assert "The smallest: " in out and "devices hold it" in out


def test_filters_and_order(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(capsys, "llama-3.2-3b", "--kind", "phone", "--fits", "--sort", "decode")
    rates = [row["speed"]["decode_tokens_per_s"] for row in found["rows"]]
    assert code == 0 and rates == sorted(rates, reverse=True) and len(rates) > 2
    assert all(row["verdict"] == "fits" for row in found["rows"])
    limit = rates[1]
    code, fast = document(capsys, "llama-3.2-3b", "--kind", "phone", "--fits", "--min-speed", str(limit))
    assert code == 0 and len(fast["rows"]) == sum(rate >= limit for rate in rates)
    code, none = document(capsys, "llama-3.2-3b", "--kind", "phone", "--min-speed", "100000")
    assert code == 1 and none["rows"] == []


@pytest.mark.parametrize(
    ("order", "key"), [("memory", "required_bytes"), ("size", "file_bytes"), ("name", "device")]
)
def test_sorting(order: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = document(capsys, "smollm2-135m", "--tier", "edge", "--kind", "phone", "--sort", order)
    values = [row[key] for row in found["rows"]]
    assert values == sorted(values) and len(values) > 3


def test_all_shows_every_container(capsys: pytest.CaptureFixture[str]) -> None:
    _, short = document(capsys, "smollm2-135m", "--kind", "phone")
    _, whole = document(capsys, "smollm2-135m", "--kind", "phone", "--all")
    assert len(whole["rows"]) > len(short["rows"]) == len(short["devices"])


def test_context_batch_and_cache_are_those_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "llama-3.2-1b",
        "--device",
        "cpu-server",
        "--format",
        "gguf",
        "--precision",
        "int4",
        "--context",
        "4096",
    )
    (plain,) = document(capsys, *words)[1]["rows"]
    (batch,) = document(capsys, *words, "--batch", "4")[1]["rows"]
    (small,) = document(capsys, *words, "--kv-bits", "8")[1]["rows"]
    assert plain["memory"]["kv_cache_bytes"] == 4096 * 16 * 8 * 64 * 2 * 2
    assert batch["memory"]["kv_cache_bytes"] == 4 * plain["memory"]["kv_cache_bytes"]
    assert small["memory"]["kv_cache_bytes"] == plain["memory"]["kv_cache_bytes"] * 17 // 32
    assert "--parallel 4" in batch["launch"] and "--cache-type-k q8_0" in small["launch"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_page_needs_nothing_else_and_cannot_be_injected_into(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "<b>model"
    folder.mkdir()
    shutil.copy(REFERENCE / "config.json", folder)
    path = tmp_path / "plan.html"
    code, _, err = plan(capsys, str(folder), "--device", "edge", "--device", "rtx-4090", "--html", str(path))
    assert code == 0 and f"wrote {path}" in err
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.links == [] and "script" not in page.tags and "<b>model" not in text
    assert page.tags.count("svg") == 2 and page.tags.count("table") == 1
    assert "raspberry" not in text and "vllm serve" in text
    assert not list(tmp_path.glob("*.part"))


def test_a_page_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = plan(capsys, "smollm2-135m", "--device", "edge", "--html", str(tmp_path / "no" / "p.html"))
    assert code == 2 and "cannot write" in err


def test_without_a_model_the_sizes_of_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--device", "raspberry-pi-5-4gb", "--precision", "int4", "--context", "2048")
    code, out, _ = plan(capsys, *words)
    assert code == 0 and "up to" in out and "2048 tokens" in out
    assert re.search(r"llama-3\.2-3b .* fits", out) and re.search(r"llama-3\.1-8b .* no: needs", out)
    code, found = document(capsys, *words)
    (limit,) = found[0]["limits"]
    assert 3e9 < limit["parameters"] < 6e9 and limit["row"]["verdict"] == "fits"


def test_the_host_can_be_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(
        capsys, str(REFERENCE), "--device", "host", "--format", "gguf", "--precision", "int4"
    )
    assert code == 0 and found["rows"][0]["device"] == "host"
