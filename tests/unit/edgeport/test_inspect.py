"""`edgeport inspect` as a command: what it prints, its exit codes, and an artifact's manifest."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import (
    ContainerEntry,
    Manifest,
    ModelFacts,
    SourceFacts,
    read_manifest,
    write_manifest,
)


def test_a_model_folder_as_json(tiny_qwen2_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_qwen2_dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["family"]) == ("safetensors", "qwen2")
    assert document["size_bytes"] == 2 * document["parameters"] and document["bits_per_weight"] == 16
    assert document["tensor_types"][0]["type"] == "BF16"
    assert document["shapes"]["kv_heads"] == 2 and document["tokenizer"]["size"] == 512
    assert [item["engine"] for item in document["engines"]] == ["transformers", "edgeport export"]
    assert all(item["accepted"] for item in document["engines"]) and document["problems"] == []


def test_a_model_folder_as_text(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_llama_dir), "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", lines[2]) == ["family", "llama"]
    assert "  edgeport export  accepted" in lines and lines[-1] == "no problems found"


def test_an_unknown_family_is_shown_with_the_reason(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((tiny_llama_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["Mamba2ForCausalLM"]}))
    (tmp_path / "model.safetensors").symlink_to(tiny_llama_dir / "model.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "edgeport export  refused: architecture Mamba2ForCausalLM is not supported" in shown
    assert "tokenizer          none found" in shown


def test_a_truncated_weight_file_is_a_problem_with_a_cure(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_llama_dir, tmp_path, dirs_exist_ok=True)
    weights = (tiny_llama_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "  error: model.safetensors has " in shown and "    cure: the download" in shown
    assert main(["inspect", str(tmp_path), "--check"]) == 1
    assert main(["inspect", str(tmp_path), "--check", "--json"]) == 1
    assert '"severity": "error"' in capsys.readouterr().out


def test_a_warning_alone_passes_the_check(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_llama_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    assert main(["inspect", str(tmp_path), "--check"]) == 0
    assert "warning: there is no chat template" in capsys.readouterr().out


def test_what_cannot_be_read_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "neither manifest.json nor config.json" in capsys.readouterr().err
    (tmp_path / "x.gguf").write_bytes(b"no model")
    assert main(["inspect", str(tmp_path / "x.gguf")]) == 2
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "notes.txt").touch()
    assert main(["inspect", str(tmp_path / "notes.txt")]) == 2
    assert "model files end in .gguf" in capsys.readouterr().err


def test_folders_within_a_folder_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").touch()
    assert main(["inspect", str(tmp_path)]) == 2
    assert "there are models in its folders onnx: name one of them" in capsys.readouterr().err


def test_neither_torch_nor_an_engine_is_loaded(tiny_llama_dir: Path) -> None:
    script = (
        "import sys; from edgeport.cli import main; code = main(sys.argv[1:]);"
        "print(code, [name for name in ('torch', 'transformers', 'onnx', 'openvino') if name in sys.modules], file=sys.stderr)"
    )
    words = [sys.executable, "-c", script, "inspect", str(tiny_llama_dir)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A manifest with one measured and one unmeasured container."""
    model = ModelFacts(
        family="llama",
        parameters=1_000_000,
        layers=2,
        hidden_size=64,
        intermediate_size=128,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=512,
        context_length=256,
        tied_embeddings=True,
        bits_per_weight=4.5,
        kv_bytes_per_token=256,
    )
    containers = (
        ContainerEntry("gguf", "gguf/m.gguf", (), 600_000, "ab" * 32, verified=True),
        ContainerEntry("onnx", "onnx/model.onnx", (), 700_000, "ab" * 32),
    )
    manifest = Manifest(
        name="m-edge",
        created="2026-01-01T00:00:00Z",
        source=SourceFacts("m", "00" * 32, 2_000_000, "bf16"),
        recipe={"name": "int4"},
        device="edge",
        model=model,
        weights_id="ab" * 32,
        containers=containers,
        quality={"gguf": {"perplexity": 12.3456}},
        speed={"gguf": {"decode": {"tokens_per_s": 151.26}}},
    )
    write_manifest(manifest, tmp_path)
    return tmp_path


def test_artifact_as_a_table(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(artifact)]) == 0
    lines = capsys.readouterr().out.splitlines()
    gguf, onnx = (re.split(r"  +", line) for line in lines[-2:])
    assert gguf[:4] == ["gguf", "586 KiB", "3.33x", "12.346"]
    assert gguf[-2:] == ["yes", "abababababab"]
    assert "151.3" in gguf
    assert onnx == ["onnx", "684 KiB", "2.86x"] + ["not measured"] * 6 + ["no", "abababababab"]


def test_artifact_as_json_is_the_manifest(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((artifact / "manifest.json").read_text())


def test_check_looks_into_each_container(
    artifact: Path, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--check"]) == 2
    assert "gguf/m.gguf cannot be read" in capsys.readouterr().err
    manifest = read_manifest(artifact)
    entry = dataclasses.replace(
        manifest.containers[0], format="safetensors", entry_point="safetensors/model.safetensors"
    )
    write_manifest(dataclasses.replace(manifest, containers=(entry,)), artifact)
    shutil.copytree(tiny_llama_dir, artifact / "safetensors")
    assert main(["inspect", str(artifact), "--check"]) == 0
    assert capsys.readouterr().out.endswith("safetensors: no problems found\n")
    weights = artifact / "safetensors" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert main(["inspect", str(artifact), "--check", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"]["name"] == "m-edge"
    assert document["containers"][0]["problems"][0]["severity"] == "error"
    assert main(["inspect", str(artifact)]) == 0, "without --check the manifest alone is shown"


def test_a_damaged_manifest_is_exit_1(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact / "manifest.json"
    path.write_text(path.read_text()[:-20])
    assert main(["inspect", str(artifact)]) == 1
    assert "manifest.json cannot be read" in capsys.readouterr().err
