"""The Makefile's own logic, with a recorder in place of the installed command: order, arguments, set-up, overhead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OVERHEAD_LIMIT_S = 1.0
RECORDER = """#!/bin/sh
printf '%s' "$1" >> calls.txt; shift
for word in "$@"; do printf ' [%s]' "$word" >> calls.txt; done
echo >> calls.txt
test ! -e fail
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Makefile and dependency files, and a finished .venv whose `edgeport` records how it was called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "edgeport").write_text(RECORDER)
    (binaries / "edgeport").chmod(0o755)
    (tmp_path / ".venv" / ".edgeport-ready").touch()
    return tmp_path


def make(directory: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or os.environ["PATH"], "HOME": str(directory)}
    return subprocess.run(
        [shutil.which("make") or "make", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(directory: Path) -> list[str]:
    return (directory / "calls.txt").read_text().splitlines()


def test_export_runs_every_step_in_order(checkout: Path) -> None:
    assert make(checkout, "-j4", "export", "DEVICE=laptop").returncode == 0
    out = "[artifacts/reference-laptop]"
    expected = [
        f"export [models/reference] [--device] [laptop] [-o] {out}",
        f"bench {out}",
        f"report {out}",
        f"inspect {out}",
    ]
    assert calls(checkout) == expected


def test_the_gate_measures_quality_and_without_it_eval_does(checkout: Path) -> None:
    words = ("GATE=no", "SOLVER=auto", "TARGET_BITS=4.6", "TARGET_MEMORY=2GB", "MAX_LOSS=3%")
    assert make(checkout, "export", *words).returncode == 0
    out = "[artifacts/reference-edge]"
    assert calls(checkout)[:2] == [
        f"export [models/reference] [--device] [edge] [-o] {out} [--solver] [auto] [--target-bits] [4.6] "
        "[--target-memory] [2GB] [--max-loss] [3%] [--no-gate]",
        f"eval {out} [--text] [models/reference/text/heldout.txt]",
    ]
    assert make(checkout, "export", "TEXT=my text.txt").returncode == 0
    assert "export [models/reference] [--device] [edge] [-o] " + out + " [--heldout] [my text.txt]" in calls(
        checkout
    )


def test_variables_reach_the_command(checkout: Path) -> None:
    words = ("MODEL=/models/my model/", "OUT=out dir", "FORMATS=gguf,onnx", "RECIPE=int8")
    assert make(checkout, "export", *words).returncode == 0
    first = (
        "export [/models/my model/] [--device] [edge] [-o] [out dir] [--format] [gguf,onnx] [--recipe] [int8]"
    )
    assert calls(checkout)[0] == first


def test_a_failing_step_stops_the_rest(checkout: Path) -> None:
    (checkout / "fail").touch()
    assert make(checkout, "export").returncode != 0
    assert len(calls(checkout)) == 1


def test_run_exports_first_when_there_is_no_artifact(checkout: Path) -> None:
    prompt = """it's a "quoted" `prompt`; exit 1"""
    assert make(checkout, "run", f"PROMPT={prompt}").returncode == 0
    assert [line.split()[0] for line in calls(checkout)] == ["export", "run"]
    assert calls(checkout)[1] == f"run [artifacts/reference-edge] [{prompt}]"


@pytest.mark.parametrize("out", ["artifacts/reference-edge", "out dir"])
def test_run_does_not_export_again(checkout: Path, out: str) -> None:
    (checkout / out).mkdir(parents=True)
    (checkout / out / "manifest.json").touch()
    assert make(checkout, "run", f"OUT={out}").returncode == 0
    assert [line.split()[0] for line in calls(checkout)] == ["run"]


def test_a_second_export_replaces_an_artifact_and_nothing_else(checkout: Path) -> None:
    out = checkout / "artifacts" / "reference-edge"
    out.mkdir(parents=True)
    assert make(checkout, "export").returncode == 0
    (out / "manifest.json").touch()
    assert make(checkout, "export").returncode == 0
    assert [line.endswith("[--force]") for line in calls(checkout) if line.startswith("export")] == [
        False,
        True,
    ]


def test_a_second_run_adds_less_than_a_second(checkout: Path) -> None:
    started = time.perf_counter()
    assert make(checkout, "report", "OUT=.", "MANIFEST=Makefile").returncode == 0
    assert time.perf_counter() - started < OVERHEAD_LIMIT_S


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_dependency_file_sets_up_again(checkout: Path, name: str) -> None:
    later = time.time() + 10
    os.utime(checkout / name, (later, later))
    assert "-m pip install" in make(checkout, "-n", "test").stdout
    os.utime(checkout / ".venv" / ".edgeport-ready", (later, later))
    assert "-m pip install" not in make(checkout, "-n", "test").stdout


def test_an_old_python_is_refused_with_the_cure(checkout: Path) -> None:
    (checkout / ".venv" / ".edgeport-ready").unlink()
    done = make(checkout, "test", "PYTHON=/nowhere/python")
    assert done.returncode != 0
    assert "make test PYTHON=/path/to/python3.11" in done.stderr


def test_a_missing_compiler_is_said_before_anything_is_installed(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".venv" / ".edgeport-ready").unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh") or "sh")
    (tools / "python3").symlink_to(os.path.realpath(sys.executable))
    done = make(checkout, "export", path=str(tools))
    assert done.returncode != 0
    assert "no C++ compiler" in done.stderr and "apt-get install g++" in done.stderr
    assert "pip" not in done.stdout


def test_help_names_every_target(checkout: Path) -> None:
    shown = make(checkout).stdout
    for target in (
        "setup",
        "export",
        "run",
        "bench",
        "eval",
        "report",
        "test",
        "test-all",
        "lint",
        "types",
        "docs",
        "clean",
    ):
        assert f"  {target} " in shown
