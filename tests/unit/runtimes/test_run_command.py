"""`edgeport run`: the text on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgeport.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["run", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_text_streams_to_stdout_and_figures_to_stderr(
    packed_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys, str(packed_dir), "def area(", "--max-tokens", "5", "--runtime", "safetensors"
    )
    assert code == 0 and out.startswith("def area(") and out.endswith("\n")
    assert "reference (safetensors): asked for by name" in err and "5 tokens, first token after" in err


def test_json_is_one_document(packed_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(packed_dir / "gguf"), "def area(", "--max-tokens", "5", "--json")
    document = json.loads(out)
    assert code == 0 and document["format"] == "gguf" and len(document["tokens"]) == 5
    assert document["finish_reason"] == "length" and document["ttft_ms"] > 0


def test_a_seeded_sample_repeats(packed_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        str(packed_dir / "safetensors"),
        "x",
        "--max-tokens",
        "8",
        "--temperature",
        "1.5",
        "--top-k",
        "50",
    ]
    assert (
        run(capsys, *words, "--seed", "4")[1]
        == run(capsys, *words, "--seed", "4")[1]
        != run(capsys, *words, "--seed", "5")[1]
    )


def test_chat_talks_until_the_end_of_input(
    packed_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\nwho are you\n"))
    code, _, err = run(
        capsys, str(packed_dir / "safetensors"), "--chat", "--max-tokens", "4", "--system", "be brief"
    )
    assert code == 0 and err.count("first token after") == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no prompt"),
        (["x", "--runtime", "tflite"], 2, "no 'tflite' container here"),
        (["x", "--top-p", "3"], 2, "top_p is 3.0"),
        (["x", "--threads", "0", "--runtime", "onnx"], 2, "threads must be at least 1"),
        (["x", "--max-tokens", "999", "--runtime", "safetensors"], 1, "need a context of"),
    ],
)
def test_what_is_wrong_is_said_with_the_right_exit_code(
    words: list[str], code: int, message: str, packed_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, out, err = run(capsys, str(packed_dir), *words)
    assert result == code and message in err and out == ""
