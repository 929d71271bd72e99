"""`edgeport inspect` against what transformers says of the same folder, and on an artifact's manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import ContainerEntry, Manifest, ModelFacts, SourceFacts, write_manifest


def test_model_folder_agrees_with_transformers(
    tiny_qwen2_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["inspect", str(tiny_qwen2_dir), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2_dir)
    assert document["parameters"] == model.num_parameters()
    assert document["parameters_by_dtype"] == {"bf16": model.num_parameters()}
    assert document["size_bytes"] == 2 * model.num_parameters()
    assert document["tensors"] == len(list(model.parameters()))
    assert (document["layers"], document["kv_heads"], document["context_length"]) == (2, 2, 256)
    assert (
        document["tokenizer"]
        == f"byte-level BPE, {len(AutoTokenizer.from_pretrained(tiny_qwen2_dir))} tokens"
    )
    assert document["chat_template"] and document["exportable"]


def test_model_folder_as_text(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_llama_dir)]) == 0
    shown = capsys.readouterr().out
    assert "llama (LlamaForCausalLM)" in shown and "can be exported    yes" in shown


def test_an_unknown_family_is_shown_with_the_reason(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((tiny_llama_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["Mamba2ForCausalLM"]}))
    (tmp_path / "model.safetensors").symlink_to(tiny_llama_dir / "model.safetensors")
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "no: architecture Mamba2ForCausalLM is not supported" in shown
    assert "tokenizer          none found" in shown


def test_a_truncated_weight_file_is_named(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_llama_dir / "config.json").read_bytes())
    weights = (tiny_llama_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    assert main(["inspect", str(tmp_path)]) == 2
    assert "model.safetensors: tensor " in capsys.readouterr().err


def test_a_folder_of_something_else_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "neither manifest.json nor config.json" in capsys.readouterr().err


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


def test_a_damaged_manifest_is_exit_1(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact / "manifest.json"
    path.write_text(path.read_text()[:-20])
    assert main(["inspect", str(artifact)]) == 1
    assert "manifest.json cannot be read" in capsys.readouterr().err
