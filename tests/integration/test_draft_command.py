"""`edgeport draft` on the reference model: a sibling is cut, taught for some seconds, measured and put into the artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("draft") / "model"
    words = ["--solver", "rtn", "--format", "gguf", "--no-gate", "--quiet", "-o", str(out)]
    assert main(["export", str(REFERENCE), "--device", "edge", *words]) == 0
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quick.toml"
    path.write_text(
        'solver = "rtn"\nlinear = "int4-g32"\nembedding = "int8-g32"\nhead = "int8-g32"\n'
        "[prune]\nlayers = 4\nffn = 0.75\nsnap = 32\n"
        "[recover]\nsteps = 10\nalpha = 1.0\nbatch_tokens = 1024\nmicro_tokens = 1024\nn_ctx = 256\nheld_tokens = 1024\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
def test_the_sibling_is_made_measured_and_used(
    artifact: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draft", str(artifact), "--recipe", str(recipe), "--quiet", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert 0.1 < entry["acceptance_rate"] < 1 and entry["tokens_per_step"] > 1
    manifest = read_manifest(artifact)
    assert manifest.draft is not None and manifest.draft.acceptance_rate == entry["acceptance_rate"]
    draft = read_manifest(artifact / "draft")
    assert (draft.model.layers, draft.model.intermediate_size) == (4, 576)
    assert draft.weights_id == manifest.draft.weights_id
    assert not list(artifact.parent.glob("*-draft")) and not list(artifact.parent.glob(".*partial"))
    assert main(["verify", str(artifact)]) == 0
    assert "draft/gguf" in capsys.readouterr().out
    texts = []
    for wanted in ("auto", "none"):
        words = [
            "run",
            str(artifact),
            "def main(",
            "--max-tokens",
            "24",
            "--temperature",
            "0",
            "--draft",
            wanted,
        ]
        assert main(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0]) > 30


def test_another_source_is_refused(
    artifact: Path, recipe: Path, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["draft", str(artifact), "--recipe", str(recipe), "--source", str(tiny_llama_dir), "--dry-run"]
    assert main(words) == 2
    assert "is not the model this artifact was exported from" in capsys.readouterr().err
