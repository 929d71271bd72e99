"""A whole search on the reference model, without recovery so that it takes a minute: measure, rank, export, resume, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"
pytestmark = pytest.mark.slow


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Rounding to nearest, one format, and a third of the held-out text."""
    recipe = tmp_path / "quick.toml"
    recipe.write_text(
        'solver = "rtn"\nlinear = "int4-g32"\nembedding = "int8-g32"\nhead = "int8-g32"\n', encoding="utf-8"
    )
    heldout = tmp_path / "heldout.txt"
    text = (REFERENCE / "text" / "heldout.txt").read_text(encoding="utf-8")
    heldout.write_text(text[:60_000], encoding="utf-8")
    return ["search", str(REFERENCE), "--device", "edge", "--format", "gguf", "--threads", "2", "--quiet", "--minutes", "0",
            "--ffn", "1.0,0.875", "--recipes", str(recipe), "--heldout", str(heldout), "-o", str(tmp_path / "out")]  # fmt: skip


def test_measures_ranks_and_exports(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    whole, cut = found["candidates"]
    assert (whole["name"], cut["name"]) == ("quick", "ffn0.875-quick")
    assert 0.005 < whole["mean_kl_divergence"] < cut["mean_kl_divergence"]
    assert whole["size_bytes"] > cut["size_bytes"] and set(found["front"]) == {"quick", "ffn0.875-quick"}
    assert found["chosen"] == "quick"
    manifest = read_manifest(tmp_path / "out" / "artifact")
    assert manifest.recipe["name"] == "quick" and manifest.gate["verdict"] == "pass"
    assert (tmp_path / "out" / "pareto.html").is_file()
    assert not list((tmp_path / "out" / "work").glob(".*partial"))

    # A second start measures nothing again; with another preference and more loss allowed the pruned one wins.
    def never(*_words: object, **_options: object) -> None:
        raise AssertionError("it is measured already")

    with monkeypatch.context() as patched:
        patched.setattr("edgeport.export.search.run.build", never)
        assert main([*words, "--json", "--prefer", "size", "--max-loss", "100%", "--no-export"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["candidates"] == found["candidates"] and again["chosen"] == "ffn0.875-quick"


def test_the_gate_passes_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--max-loss", "0.01%"]) == 1
    assert "no candidate within the limits loses at most 0.01 %" in capsys.readouterr().err
