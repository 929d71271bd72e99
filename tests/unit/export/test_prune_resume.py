"""A killed run goes on where it was, and the folder has the very bytes of an uninterrupted one; the command as users run it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeport.cli import main

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"
KILLED = 77
CHILD = f"""
import os, sys
from edgeport.export.calibrate.state import PassState

place, after = sys.argv[1], int(sys.argv[2])
advance = PassState.advance

def killed(self, shape, fill, keep):
    advance(self, shape, fill, keep)
    if self.directory.name.startswith(place) and self.layers_done == after:
        os._exit({KILLED})

PassState.advance = killed
from edgeport.cli import main
sys.exit(main(sys.argv[3:]))
"""
WORDS = ["--ffn", "0.5", "--heads", "4", "--layers", "5", "--embedding", "224", "--threads", "1", "--quiet"]
TEXT = ["--calibration-tokens", "1024", "--calibration-context", "128"]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "cut"
    assert main(["prune", str(REFERENCE), "-o", str(out), *WORDS, *TEXT]) == 0
    return out


def test_the_result_is_a_stock_folder_with_its_provenance(whole: Path) -> None:
    names = set(digests(whole))
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "text" not in names and not list(whole.parent.glob(".cut*"))
    document = json.loads((whole / "provenance.json").read_text())
    assert document["stage"] == "prune" and document["source_name"] == "reference"
    assert document["plan"]["settings"]["ffn"] == 0.5
    assert document["report"]["perplexity_after"] > document["report"]["perplexity_before"] > 1


@pytest.mark.parametrize(
    ("place", "after"),
    [
        pytest.param("influence", 1, marks=pytest.mark.slow),
        pytest.param("float", 1, marks=pytest.mark.slow),
        ("reconstruct", 1),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(whole: Path, place: str, after: int, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    words = ["prune", str(REFERENCE), "-o", str(out), *WORDS, *TEXT]
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, place, str(after), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == KILLED, killed.stderr
    assert not out.exists() and (tmp_path / ".cut.edgeport-partial").is_dir()
    assert main(words) == 0
    assert digests(out) == digests(whole)


def test_an_earlier_provenance_is_kept(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    words = ["prune", str(whole), "-o", str(out), "--ffn", "0.75", "--no-reconstruct", "--json", "--quiet"]
    text = ["--calibration", str(REFERENCE / "text" / "calibration.txt"), *TEXT]
    assert main([*words, *text]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["after"]["intermediate_size"] == 288 and told["parameters_after"] == told["after"]["parameters"]
    )
    document = json.loads((out / "provenance.json").read_text())
    assert document["source"] == json.loads((whole / "provenance.json").read_text())


def test_nothing_of_the_users_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    words = ["prune", str(REFERENCE), "-o", str(tmp_path / "mine"), "--ffn", "0.5"]
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words, "--force"]) == 2 and "was not made by edgeport" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_force_replaces_an_earlier_result(tmp_path: Path) -> None:
    out = tmp_path / "cut"
    words = [
        "prune",
        str(REFERENCE),
        "-o",
        str(out),
        "--no-reconstruct",
        "--importance",
        "magnitude",
        "--quiet",
        *TEXT,
    ]
    assert main([*words, "--ffn", "0.5"]) == 0
    assert main([*words, "--ffn", "0.25", "--force"]) == 0
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 192


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cut"
    words = ["prune", str(REFERENCE), "-o", str(out), "--ffn", "0.3", "--layers", "4", "--dry-run"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "5.57M" in shown and "FFN width: 224 instead of 230.4" in shown and "warning: " in shown
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"]["layers"] == 4
    assert not list(tmp_path.iterdir())
