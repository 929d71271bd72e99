"""`edgeport run`: the text on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
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
        (["x", "--system", "be brief"], 2, "about conversations"),
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


def test_the_models_own_settings_hold_unless_changed(
    packed_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(packed_dir / "safetensors", tmp_path / "safetensors")
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 1.5, "max_new_tokens": 4, "num_beams": 3}'
    )
    code, out, err = run(capsys, str(folder), "def area(", "--json", "--stats")
    document = json.loads(out)
    assert code == 0 and len(document["tokens"]) <= 4
    assert document["sampling"]["temperature"] == 1.5 and document["sampling"]["top_k"] == 50
    assert "sampling: temperature 1.5, top_k 50" in err and "without effect here: num_beams=3" in err
    document = json.loads(
        run(capsys, str(folder), "x", "--json", "--temperature", "0", "--logit-bias", "7=99")[1]
    )
    assert document["sampling"]["temperature"] == 0 and document["sampling"]["top_k"] == 50
    assert set(document["tokens"]) == {7}


def test_text_of_a_form(packed_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}')
    grammar.write_text('start: "yes" | "no"')
    words = [str(packed_dir / "safetensors"), "x", "--max-tokens", "60"]
    assert set(json.loads(run(capsys, *words, "--json-schema", str(schema))[1])) == {"a"}
    assert run(capsys, *words, "--grammar", str(grammar))[1] in ("yes\n", "no\n")
    assert re.fullmatch("[0-9]{3}\n", run(capsys, *words, "--regex", "[0-9]{3}")[1])
    code, _, err = run(capsys, *words, "--json-schema", str(tmp_path / "gone.json"))
    assert code == 2 and "gone.json cannot be read" in err


def test_a_conversation_is_kept_and_its_beginning_not_computed_again(
    packed_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(packed_dir / "safetensors"), "--chat", "--max-tokens", "4", "--stats"]
    cached: dict[str, list[int]] = {}
    for option in ("--no-cache", "--stats"):
        monkeypatch.setattr("sys.stdin", io.StringIO("what is the area of this shape?\nand now?\n"))
        code, _, err = run(capsys, *words, option)
        assert code == 0 and "ended: " in err
        cached[option] = [int(count) for count in re.findall(r"tokens, (\d+) from the cache", err)]
    assert cached["--no-cache"] == [0, 0] and cached["--stats"][0] == 0 < cached["--stats"][1]


def test_a_long_talk_loses_its_oldest_messages_and_says_so(
    packed_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what is the area of this shape?\n" * 4))
    words = (str(packed_dir / "safetensors"), "--chat", "--max-tokens", "8", "--context-length", "96")
    code, _, err = run(capsys, *words)
    assert code == 0 and err.count("first token after") == 4
    assert "the context is full: the oldest 2 messages were left out" in err
    code, _, err = run(capsys, *words[:2], "hi " * 90, *words[2:], "--overflow", "error")
    assert code == 1 and "need a context of" in err


def test_ctrl_c_stops_the_text_and_not_the_program(packed_dir: Path) -> None:
    """The signal comes while the first answer is being written; the second question is answered all the same."""
    command = [sys.executable, "-m", "tests.unit.runtimes.interrupted_chat", str(packed_dir / "safetensors")]
    done = subprocess.run(command, input="hi\nand now?\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ended: stopped") == 1 and done.stderr.count("ended: ") == 2


@pytest.mark.parametrize("word", ["x=1", "5", "5=hot"])
def test_a_bias_that_is_none(word: str, packed_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(packed_dir), "x", "--logit-bias", word)
    assert code == 2 and f"--logit-bias '{word}'" in err


def test_log_probabilities_are_in_the_document(packed_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(packed_dir / "safetensors"), "x", "--json", "--max-tokens", "3"]
    document = json.loads(run(capsys, *words, "--logprobs", "2")[1])
    first = document["top_logprobs"][0]
    assert len(document["logprobs"]) == 3 and len(first) == 2
    assert first[0] == [document["tokens"][0], pytest.approx(document["logprobs"][0], abs=1e-6)]
    assert json.loads(run(capsys, *words)[1])["logprobs"] is None
