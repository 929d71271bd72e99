"""`edgeport eval` end to end: figures agree with transformers, a damaged container shows, unlike things are refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from edgeport.cli import main

N_CTX, CHUNKS = 64, 6


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    source = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def artifact(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "artifact"
    arguments = [
        "--device",
        "edge",
        "--recipe",
        "bf16",
        "--format",
        "onnx,safetensors",
        "--no-verify",
        "--quiet",
    ]
    assert main(["export", str(tiny_llama_dir), "-o", str(out), *arguments]) == 0
    return out


def _eval(
    artifact: Path, text: Path, capsys: pytest.CaptureFixture[str], *extra: str
) -> dict[str, dict[str, float]]:
    capsys.readouterr()
    arguments = ["--text", str(text), "--n-ctx", str(N_CTX), "--chunks", str(CHUNKS), "--json", "--quiet"]
    assert main(["eval", str(artifact), *arguments, *extra]) == 0
    return json.loads(capsys.readouterr().out)


def _transformers_perplexity(model: Path, text: Path) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(model)(text.read_text(encoding="utf-8"))["input_ids"]
    total, count = 0.0, 0
    for number in range(CHUNKS):
        chunk = torch.tensor([tokens[number * N_CTX : (number + 1) * N_CTX]])
        chunk[0, 0] = tokens[0]  # this tokenizer begins with a special token, and so does each chunk
        labels = chunk.clone()
        labels[:, : N_CTX // 2 + 1] = -100  # the model shifts labels itself: token i is predicted at i - 1
        with torch.no_grad():
            scored = N_CTX - 1 - N_CTX // 2
            total += float(network(chunk, labels=labels).loss) * scored
            count += scored
    return math.exp(total / count)


def test_bf16_evaluates_like_transformers(
    artifact: Path, tiny_llama_dir: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = _eval(artifact, text, capsys)
    expected = _transformers_perplexity(tiny_llama_dir, text)
    for name in ("onnx", "safetensors"):
        assert results[name]["perplexity"] == pytest.approx(expected, rel=1e-4)
        assert results[name]["base_perplexity"] == pytest.approx(expected, rel=1e-4)
        assert results[name]["mean_kl_divergence"] < 1e-6 and results[name]["same_top1"] > 0.99
    assert json.loads((artifact / "manifest.json").read_text())["quality"]["onnx"] == results["onnx"]


def test_damaged_weights_show(
    artifact: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    data = damaged / "onnx" / "model.onnx.data"
    content = bytearray(data.read_bytes())
    quarter = len(content) // 4 // 64 * 64
    content[quarter : 2 * quarter], content[2 * quarter : 3 * quarter] = (
        content[2 * quarter : 3 * quarter],
        content[quarter : 2 * quarter],
    )
    data.write_bytes(content)
    results = _eval(damaged, text, capsys, "--format", "onnx")
    assert results["onnx"]["mean_kl_divergence"] > 0.05
    assert results["onnx"]["same_top1"] < 0.9


def test_another_source_is_refused(
    artifact: Path, tiny_qwen2_dir: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(artifact), "--text", str(text), "--source", str(tiny_qwen2_dir), "--quiet"]) == 2
    assert "is not the model this artifact was exported from" in capsys.readouterr().err


def test_a_missing_source_and_an_impossible_context_are_refused(
    artifact: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(artifact), "--text", str(text), "--source", str(tmp_path), "--quiet"]) == 2
    assert "--source" in capsys.readouterr().err
    assert main(["eval", str(artifact), "--text", str(text), "--n-ctx", "100000", "--quiet"]) == 2
    assert "100000 is outside" in capsys.readouterr().err
