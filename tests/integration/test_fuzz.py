"""Hostile files never crash, hang or fill the memory: `edgeport inspect`, `plan` and `export --dry-run` answer each with 0, 1 or 2.

One child process per kind of file; see fuzz_files. What a check that fails looks like is tested at the end.
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


def damaged(folder: Path, file: str, commands: list[list[str]], count: int) -> Mapping[str, Any]:
    subject = str(folder if file.endswith(("json", "safetensors")) else folder / file)
    arguments = {
        "folder": str(folder),
        "file": file,
        "commands": [[word.replace("{}", subject) for word in words] for words in commands],
        "count": count,
        "seed": 7,
    }
    found: Mapping[str, Any] = run_isolated(
        "fuzz_files:run_cases", arguments, timeout_s=TIMEOUT_S * (1 + count / FEW)
    )
    assert found["faults"] == []
    assert found["slowest_s"] < fuzz_files.CASE_S
    assert not Path(f"{subject}-out").exists()
    return found["codes"]  # type: ignore[no-any-return]


def counts() -> Any:
    return pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@counts()
@pytest.mark.parametrize(
    ("file", "refused"),
    [
        ("config.json", True),
        ("tokenizer.json", False),
        ("model.safetensors", True),
        ("model.safetensors.index.json", True),
    ],
)
def test_model_folders(file: str, refused: bool, count: int, folder: Path) -> None:
    codes = damaged(folder, file, [INSPECT, PLAN, EXPORT], count)
    assert (codes.get("2", 0) > count / 4) is refused or not refused


@counts()
@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json"])
def test_files_beside_a_model(file: str, count: int, folder: Path) -> None:
    damaged(folder, file, [INSPECT, EXPORT], count)


@counts()
def test_gguf_files(count: int, packed: Callable[[str], Path], tmp_path: Path) -> None:
    source = next((packed("tiny_llama_dir") / "gguf").glob("*.gguf"))
    (tmp_path / "model.gguf").write_bytes(source.read_bytes())
    codes = damaged(tmp_path, "model.gguf", [INSPECT, PLAN], count)
    assert codes["2"] > count


@counts()
@pytest.mark.parametrize(
    ("kind", "file"),
    [("onnx", "model.onnx"), ("onnx", "genai_config.json"), ("openvino", "openvino_model.xml")],
)
def test_graphs(kind: str, file: str, count: int, packed: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed("tiny_llama_dir") / kind, tmp_path / kind))
    damaged(folder, file, [INSPECT], 2 * count)


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
    return fuzz_files.run_cases(folder, "config.json", [["inspect"]], 0, 1)
