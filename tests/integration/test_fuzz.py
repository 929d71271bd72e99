"""Hostile files never crash, hang or fill the memory: `edgeport inspect`, `plan` and `export --dry-run` answer each with 0, 1 or 2.

Two child processes, one for folders and one for files; see fuzz_files. What a check that fails looks like is tested at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fuzz_files
import pytest

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.isolation import run_isolated

PLAN = ["plan", "{}", "--device", "raspberry-pi-5-8gb", "--json"]
EXPORT = [
    "export",
    "{}",
    "--device",
    "edge",
    "--recipe",
    "int8",
    "--no-gate",
    "--dry-run",
    "--quiet",
    "-o",
    "{}-out",
]
INSPECT = ["inspect", "{}", "--json"]
FEW, MANY = 18, 400
TIMEOUT_S = 100.0


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A model folder with every file that is damaged here."""
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "model"))
    places = {"model.embed_tokens.weight": "model.safetensors", "model.norm.weight": "model.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    if not (copy / "generation_config.json").is_file():
        (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "temperature": 0.7}))
    return copy


def codes_of(
    folder: Path, subjects: Mapping[str, tuple[Path, list[list[str]]]], count: int
) -> Mapping[str, Any]:
    """subjects: file to damage -> the path that is opened, and the commands. Exit codes with their numbers, by file."""
    work = {
        file: [[word.replace("{}", str(path)) for word in words] for words in commands]
        for file, (path, commands) in subjects.items()
    }
    arguments = {"folder": str(folder), "work": work, "count": count, "seed": 7}
    limit_s = TIMEOUT_S * len(work) * (1 + count / FEW)
    found: Mapping[str, Any] = run_isolated("fuzz_files:run_cases", arguments, timeout_s=limit_s)
    assert found["faults"] == []
    assert found["slowest_s"] < fuzz_files.CASE_S
    assert not any(Path(f"{path}-out").exists() for path, _ in subjects.values())
    return found["codes"]  # type: ignore[no-any-return]


counts = pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@counts
def test_model_folders(count: int, folder: Path) -> None:
    every, beside = [INSPECT, PLAN, EXPORT], [INSPECT, EXPORT]
    commands = {
        "config.json": every,
        "model.safetensors": every,
        "model.safetensors.index.json": every,
        "tokenizer.json": beside,
        "tokenizer_config.json": beside,
        "generation_config.json": beside,
    }
    codes = codes_of(folder, {file: (folder, words) for file, words in commands.items()}, count)
    for file in ("config.json", "model.safetensors", "model.safetensors.index.json"):
        assert codes[file]["2"] > count / 4, file
    assert all(sum(found.values()) >= count for found in codes.values())


@counts
def test_model_files(count: int, packed: Callable[[str], Path], tmp_path: Path) -> None:
    containers = packed("tiny_llama_dir")
    shutil.copy(next((containers / "gguf").glob("*.gguf")), tmp_path / "model.gguf")
    for name in ("onnx", "openvino"):
        shutil.copytree(containers / name, tmp_path, dirs_exist_ok=True)
    subjects = {
        "model.gguf": [INSPECT, PLAN],
        "model.onnx": [INSPECT],
        "genai_config.json": [INSPECT],
        "openvino_model.xml": [INSPECT],
    }
    opened = {file: tmp_path / (file if file != "genai_config.json" else "model.onnx") for file in subjects}
    codes = codes_of(tmp_path, {file: (opened[file], words) for file, words in subjects.items()}, 2 * count)
    assert codes["model.gguf"]["2"] > count and codes["openvino_model.xml"]["2"] > count / 4


def test_a_hang_a_crash_and_a_hunger_for_memory_would_be_seen(
    tmp_path: Path,
) -> None:
    """The checks of the child themselves, on commands that fail in these ways."""
    (tmp_path / "config.json").write_text("{}")
    for name, text in (("too slow", "longer than"), ("a bug", "this is a bug"), ("too much", "MemoryError")):
        arguments = {"folder": str(tmp_path), "way": name}
        found = run_isolated(f"{__name__}:faulty_cases", arguments, timeout_s=60)
        assert found["faults"] and text in found["faults"][0], name
    with pytest.raises(RuntimeFailure, match="did not finish"):
        run_isolated("time:sleep", {}, timeout_s=0.01)


def faulty_cases(folder: str, way: str) -> dict[str, Any]:
    """In the child: a command that fails in one of the ways the cases must not."""
    import time

    from edgeport import cli

    calls = []

    def fail(words: list[str]) -> int:
        calls.append(words)
        if len(calls) == 1:  # the call before memory is counted
            return 0
        if way == "too slow":
            time.sleep(60)
        try:
            if way == "too much":
                bytearray(4 << 30)
            raise KeyError("x")
        except (KeyError, MemoryError) as error:
            import sys

            print(f"edgeport: sorry, this is a bug: {type(error).__name__}", file=sys.stderr)
        return 1

    fuzz_files.CASE_S = 0.2
    cli.main = fail  # type: ignore[assignment]
    return fuzz_files.run_cases(folder, {"config.json": [["inspect"]]}, 0, 1)
