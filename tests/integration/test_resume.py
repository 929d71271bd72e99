"""Killing an export: never an output that is not finished, and the next run goes on from the last whole stage.

Kills are SIGKILL to the whole process group, so that no engine's child outlives the export.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeport.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
Edgeport = Callable[..., subprocess.CompletedProcess[str]]
DEADLINE_S = 600.0
# What appears in the hidden folder, in this order: unfinished stages, finished ones, then what is written for verification.
MOMENTS = (
    "lock",
    "checkpoint.part",
    "checkpoint/checkpoint.json",
    "checkpoint.stage",
    "onnx.part",
    "onnx.part/model.onnx",
    "final/onnx",
    "onnx.stage",
    "safetensors.stage",
    "final/weights.json",
    "final/golden.json",
    "final/manifest.json",
)


class RunningExport:
    """One export in a process group of its own."""

    def __init__(self, model: Path, out: Path, *words: str) -> None:
        self.out = out
        self.partial = out.with_name(f".{out.name}.edgeport-partial")
        command = [
            sys.executable,
            "-m",
            "edgeport",
            "export",
            str(model),
            "--device",
            "edge",
            "-o",
            str(out),
            "--quiet",
            "--solver",
            "rtn",
            "--no-gate",
            *words,
        ]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            start_new_session=True,
            # A background job inherits an ignored SIGINT, and Python then has no KeyboardInterrupt.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, *names: str) -> bool:
        """Until one of `names` is in the hidden folder; False when the export has ended before."""
        paths, deadline = [self.partial / name for name in names], time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if any(path.exists() for path in paths):
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.001)
        raise AssertionError(f"{names} did not appear within {DEADLINE_S:g} s")

    def signal(self, number: signal.Signals) -> tuple[int, str]:
        """Signal the group; (exit code, stderr)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        _, error = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, error


Start = Callable[..., RunningExport]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[RunningExport] = []

    def run(model: Path, out: Path, *words: str) -> RunningExport:
        running.append(RunningExport(model, out, *words))
        return running[-1]

    yield run
    for export in running:
        export.signal(signal.SIGKILL)


def test_killed_at_every_stage_and_run_again(
    tiny_llama_dir: Path, tmp_path: Path, start: Start, edgeport: Edgeport
) -> None:
    """Each run goes on where the last was killed, so that all of them together are little more than one export."""
    out = tmp_path / "out"
    for at, moment in enumerate(MOMENTS):
        export = start(tiny_llama_dir, out, "--format", "onnx")
        # Some are there for a millisecond only, so the moments after it count as well.
        assert export.wait_for(*MOMENTS[at:]), f"the export ended before {moment}"
        code, _ = export.signal(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not out.exists(), f"an unfinished output after a kill at {moment}"
    words = ("--device", "edge", "-o", out, "--format", "onnx", "--solver", "rtn", "--no-gate", "--json")
    done = edgeport("export", tiny_llama_dir, *words)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [entry.format for entry in read_manifest(out).containers if entry.verified] == ["onnx"]


def test_a_finished_stage_is_not_made_again(tiny_llama_dir: Path, tmp_path: Path, start: Start) -> None:
    export = start(tiny_llama_dir, tmp_path / "out", "--format", "onnx")
    assert export.wait_for("onnx.stage")
    export.signal(signal.SIGKILL)
    stages = [
        export.partial / "checkpoint" / "checkpoint.json",
        export.partial / "final" / "onnx" / "model.onnx",
    ]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in stages]
    again = start(tiny_llama_dir, tmp_path / "out", "--format", "onnx")
    assert again.wait_for("safetensors.stage")
    again.signal(signal.SIGKILL)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in stages] == before


def test_interrupted_by_the_user(tiny_llama_dir: Path, tmp_path: Path, start: Start) -> None:
    out = tmp_path / "out"
    export = start(tiny_llama_dir, out, "--format", "onnx")
    assert export.wait_for("checkpoint.part")
    code, error = export.signal(signal.SIGINT)
    assert code == 130
    assert error.strip().splitlines()[-1] == "edgeport: interrupted"
    assert not out.exists()


@pytest.mark.slow
def test_interrupted_while_an_engine_runs(tiny_llama_dir: Path, tmp_path: Path, start: Start) -> None:
    out = tmp_path / "out"
    export = start(tiny_llama_dir, out, "--format", "onnx")
    assert export.wait_for("final/manifest.json")
    time.sleep(1.0)
    code, error = export.signal(signal.SIGINT)
    assert code == 130 and "Traceback" not in error and not out.exists()


def test_an_older_artifact_is_served_until_the_new_one_is_finished(
    tiny_llama_dir: Path, llama_artifact: Path, tmp_path: Path, start: Start
) -> None:
    out = tmp_path / "out"
    shutil.copytree(llama_artifact, out)
    before = read_manifest(out)
    export = start(tiny_llama_dir, out, "--format", "onnx", "--recipe", "int8", "--force")
    assert export.wait_for("final/weights.json")
    assert read_manifest(out) == before
    export.signal(signal.SIGKILL)
    assert read_manifest(out) == before


def test_a_second_export_waits_for_nobody_and_says_so(
    tiny_llama_dir: Path, tmp_path: Path, start: Start, edgeport: Edgeport
) -> None:
    first = start(tiny_llama_dir, tmp_path / "out", "--format", "onnx")
    assert first.wait_for("checkpoint.part")
    second = edgeport(
        "export", tiny_llama_dir, "--device", "edge", "-o", tmp_path / "out", "--solver", "rtn", "--quiet"
    )
    assert second.returncode == 2 and "another export is writing" in second.stderr


@pytest.mark.slow
def test_killed_at_any_time(tiny_llama_dir: Path, tmp_path: Path, start: Start, edgeport: Edgeport) -> None:
    """Every 0.3 s of a whole export's life, each time from nothing; with an older artifact to replace as well."""
    finished, number = False, 0
    while not finished:
        number += 1
        out = tmp_path / "out"
        export = start(tiny_llama_dir, out, "--format", "gguf", "--no-resume")
        try:
            export.process.wait(0.3 * number)
            finished = True
        except subprocess.TimeoutExpired:
            pass
        export.signal(signal.SIGKILL)
        if out.exists():
            finished = True
            assert edgeport("verify", out, "--quiet").returncode == 0
    assert number > 3
    assert (
        edgeport(
            "export",
            tiny_llama_dir,
            "--device",
            "edge",
            "-o",
            tmp_path / "out",
            "--format",
            "gguf",
            "--solver",
            "rtn",
            "--force",
        ).returncode
        == 0
    )
