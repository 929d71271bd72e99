"""The notebook over the whole path runs from its first cell to its last, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "whole_path.ipynb"


def cells(notebook: Path) -> list[str]:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def run(notebook: Path, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {"EDGEPORT_MODEL": str(model), "EDGEPORT_OUT": str(out), "EDGEPORT_FORMATS": "gguf"}
    return subprocess.run(
        [sys.executable, "-c", "\n".join(cells(notebook))],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_it_is_a_notebook_without_leftovers() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4 and len(cells(NOTEBOOK)) >= 6
    assert all(cell["outputs"] == [] for cell in document["cells"] if cell["cell_type"] == "code")


@pytest.mark.slow
def test_every_cell_runs(tiny_llama_dir: Path, tmp_path: Path) -> None:
    done = run(NOTEBOOK, tiny_llama_dir, tmp_path / "artifact")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "llama.cpp" in done.stdout and "of the second prompt came from the cache" in done.stdout
    assert (tmp_path / "artifact" / "report.html").is_file()


def test_a_cell_that_fails_is_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ipynb"
    broken.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["raise SystemExit(3)"]}]}))
    assert run(broken, tmp_path, tmp_path).returncode == 3
