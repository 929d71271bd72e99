"""The reference model fine-tuned with 4-bit weights and with codes, merged, exported and verified, as a user would do it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.source import open_source
from edgeport.manifest import read_manifest

REFERENCE = Path("models/reference")
SHORT = [
    *("--teacher", "none", "--alpha", "0", "--text", "embedded", "--text-tokens", "8192", "--n-ctx", "128"),
    *(
        "--held-tokens",
        "1024",
        "--steps",
        "6",
        "--learning-rate",
        "0.001",
        "--batch-tokens",
        "512",
        "--micro-tokens",
        "512",
    ),
    *("--measure-steps", "3", "--threads", "1", "--quiet", "--json"),
]


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [
        ("qlora", ["rank=8", "lora_alpha=16", "target=all-linear"], 0.05),
        ("qat", ["recipe=int4", "solver=rtn"], 0.005),
    ],
)
def test_fine_tuned_exported_and_verified(
    kind: str, options: list[str], least: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
    tuned, artifact = tmp_path / "tuned", tmp_path / "artifact"
    words = [word for option in options for word in ("--option", option)]
    words = ["distill", "--student", str(REFERENCE), "--kind", kind, *words, *SHORT, "-o", str(tuned)]
    assert main(words) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert report["held_cross_entropy_after"] < report["held_cross_entropy_before"] - least
    export = ["export", str(tuned), "--recipe", "int4", "--solver", "rtn", "--format", "gguf", "--no-gate"]
    assert main([*export, "--quiet", "-o", str(artifact)]) == 0, capsys.readouterr().err
    manifest = read_manifest(artifact)
    assert [(entry.format, entry.verified) for entry in manifest.containers] == [("gguf", True)]
    assert (artifact / manifest.container("gguf").entry_point).is_file()
    if kind == "qat":
        trained = Checkpoint(tuned / "quantized", open_source(str(tuned)).spec)
        assert manifest.weights_id == trained.weights_id
    else:
        assert json.loads((tuned / "merge.json").read_text())["kl_divergence"] > 0
