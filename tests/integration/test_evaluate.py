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


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["return", "if", "for"]
    lines = [{"prompt": f"def f{n}(x):\n    ", "choices": words, "answer": n % 3} for n in range(12)]
    path = tmp_path_factory.mktemp("task") / "words.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


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


def test_bf16_writes_and_chooses_like_its_source(
    artifact: Path, text: Path, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = _eval(artifact, text, capsys, "--task", str(task), "--new-tokens", "40")
    for name in ("onnx", "safetensors"):
        generation, choices = results[name]["generation"], results[name]["classification"]
        assert generation["prompts"] == CHUNKS and generation["new_tokens"] == 40
        # bf16 weights are exact in float32: only the order of sums differs, and no tie of this model is that near
        assert generation["never_diverged"] == 1 and generation["loops"] == generation["source_loops"]
        assert len(generation["samples"]) == 3
        assert generation["samples"][0]["container"] == generation["samples"][0]["source"] != ""
        assert choices["agreement"] == 1 and choices["macro_f1"] == choices["source_macro_f1"]
        assert results[name]["token_accuracy"] == pytest.approx(
            results[name]["base_token_accuracy"], abs=0.02
        )


def test_parts_can_be_left_out_and_prompts_be_given(
    artifact: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _eval(artifact, text, capsys, "--format", "onnx", "--no-generation")["onnx"]
    assert result["generation"] is None and result["classification"] is None
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("def add(a, b):\nimport os\n", encoding="utf-8")
    extra = ("--format", "onnx", "--prompts", str(prompts), "--samples", "1")
    generation = _eval(artifact, text, capsys, *extra)["onnx"]["generation"]
    assert generation["prompts"] == 2 and [item["prompt"] for item in generation["samples"]] == [
        "def add(a, b):"
    ]
    arguments = ["--text", str(text), "--n-ctx", "64", "--new-tokens", "256", "--quiet"]
    assert main(["eval", str(artifact), *arguments]) == 2
    assert "256 new tokens are outside 1 .. 255" in capsys.readouterr().err


def test_the_table_shows_every_part(
    artifact: Path, text: Path, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["--text", str(text), "--n-ctx", str(N_CTX), "--chunks", "4", "--format", "onnx", "--quiet"]
    assert main(["eval", str(artifact), *arguments, "--task", str(task)]) == 0
    out = capsys.readouterr().out
    for words in ("right token", "words", "macro F1", "ends in a loop", "sample 1", "  source:", "  onnx:"):
        assert words in out, f"{words!r} is not in\n{out}"


def test_damaged_weights_show(
    artifact: Path, text: Path, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every figure says no: two quarters of the weights have changed places."""
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
    result = _eval(damaged, text, capsys, "--format", "onnx", "--task", str(task))["onnx"]
    assert result["mean_kl_divergence"] > 0.05 and result["same_top1"] < 0.9
    assert result["correlation"] < 0.99 and result["mean_log_ratio"] != 0
    assert result["generation"]["never_diverged"] < 0.5
    assert result["generation"]["median_first_divergence"] < 20


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
