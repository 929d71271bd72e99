"""`edgeport distill` as a user runs it: a kill costs no bit, and what comes out is a stock folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeport.export.source import open_source

ROOT = Path(__file__).resolve().parents[2]
Edgeport = Callable[..., subprocess.CompletedProcess[str]]
SMALL = (
    "--text", "embedded", "--text-tokens", "8192", "--n-ctx", "64", "--micro-tokens", "256", "--batch-tokens", "512",
    "--held-tokens", "512", "--measure-steps", "4", "--threads", "1", "--quiet",
)  # fmt: skip
# Ends the process at the start of the eleventh step without any farewell; checkpoints every other step.
KILLED = """
import os, sys
from edgeport.cli import main
from edgeport.export.recover import trainer
trainer._CHECKPOINT_SECONDS = 0.0
step = trainer.Trainer._step
def dying(self):
    if self.run_state.step == 10:
        os._exit(77)
    return step(self)
trainer.Trainer._step = dying
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def pruned(tiny_llama_dir: Path, edgeport: Edgeport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pruned") / "pruned"
    words = ("--ffn", "0.5", "--importance", "magnitude", "--no-reconstruct", "--quiet")
    ended = edgeport("prune", tiny_llama_dir, "-o", out, *words)
    assert ended.returncode == 0, ended.stderr
    return out


def words_for(teacher: Path, student: Path, out: Path, *more: str) -> list[str]:
    return ["distill", "--teacher", str(teacher), "--student", str(student), "-o", str(out), *SMALL, *more]


@pytest.mark.parametrize(
    "more", [(), pytest.param(("--cache-teacher", "32", "--precision", "bf16"), marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    tiny_llama_dir: Path, pruned: Path, edgeport: Edgeport, tmp_path: Path, more: tuple[str, ...]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = words_for(tiny_llama_dir, pruned, killed, "--steps", "16", *more)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, *words],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert died.returncode == 77, died.stderr
    assert not killed.exists()
    state = killed.with_name(".killed.edgeport-partial") / "distill" / "run" / "run.json"
    assert json.loads(state.read_text())["run"]["step"] == 10
    for folder in (killed, whole):
        ended = edgeport(*words_for(tiny_llama_dir, pruned, folder, "--steps", "16", *more))
        assert ended.returncode == 0, ended.stderr
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    first, second = (json.loads((folder / "provenance.json").read_text()) for folder in (killed, whole))
    for one, other in zip(first["report"]["curve"], second["report"]["curve"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert first["source"]["stage"] == "prune"


def test_the_result_is_a_stock_folder_and_the_report_says_what_was_won(
    tiny_llama_dir: Path, pruned: Path, edgeport: Edgeport, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = words_for(tiny_llama_dir, pruned, out, "--tokens", "20000", "--learning-rate", "2e-3")
    ended = edgeport(*words, "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["steps"] == 40
    assert report["held_loss_after"] < 0.9 * report["held_loss_before"]
    assert open_source(str(out)).spec == open_source(str(pruned)).spec
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    again = edgeport(*words)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_what_cannot_be_is_refused_before_work(
    tiny_llama_dir: Path, tiny_qwen2_dir: Path, edgeport: Edgeport, tmp_path: Path
) -> None:
    other = edgeport(*words_for(tiny_qwen2_dir, tiny_llama_dir, tmp_path / "out", "--steps", "1"))
    assert other.returncode == 2
    assert "different tokenizers: id " in other.stderr
    wrong = edgeport(
        *words_for(tiny_llama_dir, tiny_llama_dir, tmp_path / "out", "--alpha", "2", "--temperature", "0")
    )
    assert wrong.returncode == 2
    assert "alpha is 2" in wrong.stderr
    assert "temperature is 0" in wrong.stderr
    assert not list(tmp_path.iterdir())
