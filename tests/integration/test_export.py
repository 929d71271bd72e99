"""`edgeport export` as a user runs it: four containers of one model, a complete manifest, one document, honest refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeport.cli import main
from edgeport.export.checkpoint import weights_id
from edgeport.export.formats.onnx import OnnxFormat
from edgeport.export.formats.table import FORMATS as WRITERS
from edgeport.manifest import file_entry, read_manifest

Edgeport = Callable[..., subprocess.CompletedProcess[str]]
Exports = Mapping[str, tuple[Path, subprocess.CompletedProcess[str]]]
FORMATS = ("gguf", "onnx", "openvino", "safetensors")
FAMILIES = ("llama", "qwen2")
# Container bytes that are no weights: headers, graphs, tokenizers. In a model of 100,000 weights they are not small.
WEIGHT_FILES = {
    "onnx": "model.onnx.data",
    "openvino": "openvino_model.bin",
    "safetensors": "model.safetensors",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_four_verified_containers_with_one_weights_id(family: str, exports: Exports) -> None:
    out, done = exports[family]
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(out)
    assert [entry.format for entry in manifest.containers] == list(FORMATS)
    assert all(entry.verified for entry in manifest.containers)
    assert {entry.weights_id for entry in manifest.containers} == {manifest.weights_id}
    assert weights_id(json.loads((out / "weights.json").read_text())) == manifest.weights_id
    for name in FORMATS:
        assert name in done.stdout
    assert done.stdout.count("verified") == 4 and manifest.weights_id[:16] in done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_the_manifest_lists_every_file_and_says_where_it_came_from(family: str, exports: Exports) -> None:
    out, _ = exports[family]
    manifest = read_manifest(out)
    for entry in manifest.containers:
        folder = out / entry.format
        found = [file_entry(path, out) for path in sorted(folder.rglob("*")) if path.is_file()]
        assert list(entry.files) == found
        assert entry.size_bytes == sum(file.size_bytes for file in found)
        assert (out / entry.entry_point).is_file()
    assert {path.name for path in out.iterdir()} == {"manifest.json", "weights.json", "golden.json", *FORMATS}
    facts = manifest.model
    assert facts.family == family and facts.tied_embeddings is (family == "llama")
    assert (facts.layers, facts.hidden_size, facts.heads, facts.kv_heads, facts.head_dim) == (2, 64, 4, 2, 16)
    assert manifest.recipe["name"] == "int4" and manifest.device == "edge"
    assert manifest.source.dtype == "bf16" and len(manifest.source.fingerprint) == 64
    assert manifest.tool_versions["edgeport"] and manifest.tool_versions["openvino"]
    assert manifest.cost["peak_ram_bytes"] > 0 and manifest.cost["seconds"]["quantize"] > 0


def test_two_families_are_two_models(exports: Exports) -> None:
    assert read_manifest(exports["llama"][0]).weights_id != read_manifest(exports["qwen2"][0]).weights_id


def test_nothing_is_left_beside_the_output(exports: Exports) -> None:
    for out, _ in exports.values():
        assert sorted(path.name for path in out.parent.iterdir()) == ["llama", "qwen2"]


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_the_planned_sizes_are_the_real_ones(
    name: str, exports: Exports, tiny_llama_dir: Path, edgeport: Edgeport
) -> None:
    done = edgeport("export", tiny_llama_dir, "--device", "edge", "-o", "nowhere", "--dry-run", "--json")
    planned = json.loads(done.stdout)["sizes_bytes"][name]
    written = (exports["llama"][0] / name / WEIGHT_FILES[name]).stat().st_size
    # Small tensors lie inside the graph (ONNX: up to 1 KiB each); a header comes on top (safetensors, 4 KiB).
    assert written == pytest.approx(planned, abs=0.02 * planned + 9000)


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    tiny_llama_dir: Path, tmp_path: Path, edgeport: Edgeport
) -> None:
    out = tmp_path / "deep" / "out"
    done = edgeport("export", tiny_llama_dir, "--device", "edge", "-o", out, "--dry-run")
    assert done.returncode == 0
    for told in ("llama", "107k parameters", "bits per weight", "gguf", "openvino", "fits"):
        assert told in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_json_is_one_document_and_one_format_is_one_folder(
    tiny_qwen2_dir: Path, tmp_path: Path, edgeport: Edgeport
) -> None:
    out = tmp_path / "out"
    words = ("export", tiny_qwen2_dir, "--device", "edge", "-o", out, "--format", "onnx", "--recipe", "int8")
    done = edgeport(*words, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((out / "manifest.json").read_text())
    assert [entry["format"] for entry in document["containers"]] == ["onnx"]
    assert document["recipe"]["linear"] == "int8-g32"
    assert {path.name for path in out.iterdir()} == {"manifest.json", "weights.json", "golden.json", "onnx"}
    again = edgeport(*words)
    assert again.returncode == 2 and "exists already" in again.stderr and "--force" in again.stderr
    assert json.loads((out / "manifest.json").read_text()) == document


def test_force_replaces_an_artifact(
    tiny_llama_dir: Path, tmp_path: Path, edgeport: Edgeport, llama_artifact: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(llama_artifact, out)
    (out / "gguf" / "stale").touch()
    done = edgeport(
        "export",
        tiny_llama_dir,
        "--device",
        "edge",
        "-o",
        out,
        "--format",
        "safetensors",
        "--recipe",
        "bf16",
        "--force",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "--quiet"
    assert read_manifest(out).recipe["name"] == "bf16" and not (out / "gguf").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


REFUSALS: dict[str, tuple[list[str], int, str]] = {
    "no model": ([], 2, "no MODEL was given"),
    "no such model": (["nowhere/at/all"], 2, "no such model folder"),
    "unknown device": (["MODEL", "--device", "edgy"], 2, "edgy"),
    "unknown recipe": (["MODEL", "--device", "edge", "--recipe", "int44"], 2, "did you mean int4?"),
    "unknown format": (
        ["MODEL", "--device", "edge", "--format", "gguf,tflite"],
        2,
        "unknown format 'tflite'",
    ),
    "too long a context": (["MODEL", "--device", "edge", "--context", "100000"], 2, "100000"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_say_what_and_how_to_go_on(
    case: str, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code, told = REFUSALS[case]
    out = ["-o", str(tmp_path / "out")]
    assert (
        main(["export", *[str(tiny_llama_dir) if word == "MODEL" else word for word in words], *out]) == code
    )
    shown = capsys.readouterr()
    assert shown.out == ""
    message, hint = shown.err.splitlines()[:2]
    assert message.startswith("edgeport: ") and told in message
    assert hint.startswith("  ")
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_listed(edgeport: Edgeport) -> None:
    listed: Any = json.loads(edgeport("export", "--list-recipes", "--json").stdout)
    assert {item["name"] for item in listed} >= {"bf16", "edge", "edge-pruned", "f16", "int2", "int4", "int8"}
    assert "int4-g32" in edgeport("export", "--list-recipes").stdout


class FaultyOnnx:
    """A writer that errs: one bit of the largest tensor's codes."""

    name = "onnx"

    def __init__(self) -> None:
        self._real = OnnxFormat()

    def reasons_against(self, *arguments: Any) -> list[str]:
        return self._real.reasons_against(*arguments)

    def write(self, checkpoint: Any, directory: Path, options: Any) -> Path:
        entry_point = self._real.write(checkpoint, directory, options)
        data = bytearray((directory / "model.onnx.data").read_bytes())
        data[100] ^= 0x10
        (directory / "model.onnx.data").write_bytes(data)
        return entry_point


def test_an_export_that_does_not_verify_is_kept_aside_and_not_published(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faulty_writer", SimpleNamespace(FaultyOnnx=FaultyOnnx))
    monkeypatch.setitem(WRITERS, "onnx", "faulty_writer:FaultyOnnx")
    words = [
        "export",
        str(tiny_llama_dir),
        "--device",
        "edge",
        "-o",
        str(tmp_path / "out"),
        "--format",
        "onnx",
        "--solver",
        "rtn",
    ]
    assert main([*words, "--quiet"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "does not verify" in shown.err and "onnx weights" in shown.err
    assert "different weights: model.embed_tokens.weight" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]
    rejected = read_manifest(tmp_path / "out.rejected")
    assert not rejected.container("onnx").verified


def test_a_tokenizer_that_gguf_cannot_hold_is_refused_before_the_work(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, model)
    document = json.loads((model / "tokenizer.json").read_text())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w{1,2}|\s|."}
    (model / "tokenizer.json").write_text(json.dumps(document))
    out = tmp_path / "out"
    assert (
        main(["export", str(model), "--device", "edge", "-o", str(out), "--format", "gguf", "--quiet"]) == 2
    )
    assert "tokenizer" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "bf16", "f16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_through_every_container(
    family: str, recipe: str, tmp_path: Path, request: pytest.FixtureRequest, edgeport: Edgeport
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{family}_dir")
    done = edgeport("export", model, "--device", "edge", "-o", tmp_path / "out", "--recipe", recipe)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "out")
    assert [entry.format for entry in manifest.containers if entry.verified] == list(FORMATS)
    assert {entry.weights_id for entry in manifest.containers} == {manifest.weights_id}


@pytest.mark.slow
def test_exporting_twice_gives_the_same_weights_files(
    tiny_llama_dir: Path, llama_artifact: Path, tmp_path: Path, edgeport: Edgeport
) -> None:
    words = ("--device", "edge", "-o", tmp_path / "out", "--threads", "1", "--solver", "rtn")
    done = edgeport("export", tiny_llama_dir, *words)
    assert done.returncode == 0, done.stderr
    first, second = read_manifest(llama_artifact), read_manifest(tmp_path / "out")
    for name in ("gguf", "onnx", "safetensors"):
        assert first.container(name).files == second.container(name).files
