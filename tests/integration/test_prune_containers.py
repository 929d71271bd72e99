"""A pruned model goes through every container like any other: one weights_id, the same text in every engine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"
Edgeport = Callable[..., subprocess.CompletedProcess[str]]
TEXT = ("--calibration-tokens", "2048", "--calibration-context", "128")


def exported(edgeport: Edgeport, model: Path, out: Path, recipe: str) -> dict[str, str]:
    """weights_id by format of an export without the gate; verification has compared every engine with the folder."""
    done = edgeport(
        "export", model, "--device", "edge", "--recipe", recipe, "--solver", "rtn", "--no-gate", "-o", out
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert all(item["verified"] for item in manifest["containers"])
    return {item["format"]: item["weights_id"] for item in manifest["containers"]}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int4", "int8"])
def test_the_pruned_reference_model_packs_everywhere(edgeport: Edgeport, recipe: str, tmp_path: Path) -> None:
    words = ("--ffn", "0.75", "--heads", "4", "--layers", "5", "--embedding", "224", "--vocabulary", "auto")
    done = edgeport("prune", REFERENCE, "-o", tmp_path / "pruned", *words, *TEXT)
    assert done.returncode == 0, done.stderr
    found = exported(edgeport, tmp_path / "pruned", tmp_path / "artifact", recipe)
    assert set(found) == {"gguf", "onnx", "openvino", "safetensors"}
    assert len(set(found.values())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--heads", "2"), ("--embedding", "32")], ids=["heads", "embedding"])
def test_a_qwen2_that_leaves_as_llama_packs_everywhere(
    edgeport: Edgeport, tiny_qwen2_dir: Path, words: tuple[str, str], tmp_path: Path
) -> None:
    done = edgeport("prune", tiny_qwen2_dir, "-o", tmp_path / "pruned", *words, *TEXT)
    assert done.returncode == 0, done.stderr
    assert "leaves as llama" in done.stderr
    found = exported(edgeport, tmp_path / "pruned", tmp_path / "artifact", "int8")
    assert set(found) == {"gguf", "onnx", "openvino", "safetensors"}
    assert len(set(found.values())) == 1


@pytest.mark.slow
def test_widths_that_differ_pack_everywhere(edgeport: Edgeport, tmp_path: Path) -> None:
    done = edgeport("prune", REFERENCE, "-o", tmp_path / "pruned", "--ffn", "0.5", "--per-layer", *TEXT)
    assert done.returncode == 0, done.stderr
    blocks = json.loads((tmp_path / "pruned" / "config.json").read_text())["block_configs"]
    widths = [block["ffn"]["intermediate_size"] for block in blocks]
    assert sum(widths) == 6 * 384 and len(set(widths)) > 1
    found = exported(edgeport, tmp_path / "pruned", tmp_path / "artifact", "int8")
    assert set(found) == {"gguf", "onnx", "openvino", "safetensors"}
    assert len(set(found.values())) == 1
