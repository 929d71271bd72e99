"""The gate inside an export: it refuses a model that was damaged, climbs to what passes, and ends with exit 1 when nothing does.

The damage is planted in the quantizer: one tensor of the reference model gets its rows in another order. Every container then
holds the same wrong weights, so verification has nothing to say, and only quality can tell.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeport.cli import main
from edgeport.errors import GateFailure, UsageError
from edgeport.export.build import build
from edgeport.export.gate.heldout import HELDOUT_SEED, sample_heldout
from edgeport.export.gate.thresholds import Thresholds
from edgeport.export.methods import CalibrationWish
from edgeport.export.pipeline import ExportResult, run
from edgeport.export.quantize.tensor import QuantizedTensor, quantize_tensor
from edgeport.export.request import Budget, ExportRequest, GateWish, make_plan
from edgeport.export.source import open_source
from edgeport.export.staging import Staging
from edgeport.manifest import Manifest, read_manifest
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"
DAMAGED = "model.layers.2.mlp.down_proj.weight"
HURRY = Budget(time_s=0.001)
"""No solver is that quick: rungs with calibration are passed over, which a test of a minute needs."""
Exports = Mapping[str, tuple[Path, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first third of the held-out text: 48 chunks would tell the same with smaller errors."""
    path = tmp_path_factory.mktemp("text") / "heldout.txt"
    text = (REFERENCE / "text" / "heldout.txt").read_text(encoding="utf-8")
    path.write_text(text[:40_000], encoding="utf-8")
    return path


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """damage(("int4",)): from now on the rows of one tensor are stored upside down in these kinds."""
    real = quantize_tensor

    def plant(kinds: tuple[str, ...]) -> None:
        def faulty(values: Any, scheme: TensorScheme, *, name: str, **more: Any) -> QuantizedTensor:
            if name == DAMAGED and scheme.kind in kinds:
                values = values[::-1]
            return real(values, scheme, name=name, **more)

        monkeypatch.setattr("edgeport.export.quantize.run.quantize_tensor", faulty)

    return plant


def export(out: Path, heldout: Path, *, formats: tuple[str, ...] = ("gguf",), **changes: Any) -> ExportResult:
    gate = changes.pop("gate", GateWish(heldout=heldout))
    request = ExportRequest(
        str(REFERENCE),
        "edge",
        out,
        formats=formats,
        recipe="int4",
        threads=1,
        gate=gate,
        **changes,
    )
    return run(make_plan(request), progress=NO_PROGRESS)


def verdicts(manifest: Manifest) -> dict[tuple[str, str], str]:
    return {(line["container"], line["name"]): line["verdict"] for line in manifest.gate["lines"]}


def test_a_damaged_model_is_refused_although_it_verifies(
    tmp_path: Path,
    heldout: Path,
    damage: Callable[[tuple[str, ...]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(("int4",))
    out = tmp_path / "out"
    words = [
        "export",
        str(REFERENCE),
        "--device",
        "edge",
        "-o",
        str(out),
        "--format",
        "gguf",
        "--threads",
        "1",
    ]
    assert (
        main(
            [
                *words,
                "--recipe",
                "int4",
                "--solver",
                "rtn",
                "--heldout",
                str(heldout),
                "--no-ladder",
                "--quiet",
            ]
        )
        == 1
    )
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        "the gate says no" in shown.err
        and "gguf perplexity +" in shown.err
        and "gguf same top token" in shown.err
    )
    assert "out.rejected" in shown.err and "--max-loss" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]
    rejected = read_manifest(tmp_path / "out.rejected")
    assert rejected.container("gguf").verified, (
        "the container holds what was quantized; that is not the fault"
    )
    assert rejected.gate["verdict"] == "fail" and verdicts(rejected)["gguf", "perplexity"] == "fail"
    assert rejected.quality["gguf"]["perplexity_ratio"] > 1.05


@pytest.mark.slow
def test_the_ladder_climbs_over_what_does_not_fit_to_what_passes(
    tmp_path: Path, heldout: Path, damage: Callable[[tuple[str, ...]], None]
) -> None:
    damage(("int4",))
    result = export(tmp_path / "out", heldout, solver="rtn", budget=HURRY)
    path = {step.rung: step for step in result.path}
    assert [step.verdict for step in result.path] == ["fail", "skipped", "skipped", "skipped", "pass"]
    assert path["as asked"].perplexity_ratio is not None and path["as asked"].perplexity_ratio > 1.05
    assert "--time-budget" in path["solver gptaq"].reason
    manifest = read_manifest(tmp_path / "out")
    assert manifest.gate["rung"] == "INT8" == result.path[-1].rung
    assert manifest.recipe["name"] == "int8" and manifest.recipe["linear"] == "int8-g32"
    assert [step["verdict"] for step in manifest.gate["ladder"]] == [step.verdict for step in result.path]
    assert set(verdicts(manifest).values()) == {"pass"} and manifest.gate["verdict"] == "pass"
    assert manifest.quality["gguf"]["perplexity_ratio"] < 1.01
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "one finished artifact and nothing else"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        "weights.json",
        "golden.json",
        "gguf",
    }


@pytest.mark.slow
def test_exit_1_when_no_rung_passes(
    tmp_path: Path, heldout: Path, damage: Callable[[tuple[str, ...]], None]
) -> None:
    damage(("int4", "int8", "bf16"))
    heard: list[str] = []
    request = ExportRequest(
        str(REFERENCE),
        "edge",
        tmp_path / "out",
        formats=("gguf",),
        recipe="int4",
        threads=1,
        solver="rtn",
        gate=GateWish(heldout=heldout),
        budget=HURRY,
    )
    with pytest.raises(GateFailure, match="on any of 6 rungs") as caught:
        run(make_plan(request), progress=NO_PROGRESS, tell=heard.append)
    assert caught.value.exit_code == 1
    for rung in ("as asked", "solver gptaq", "mixed precision", "INT8", "16 bits"):
        assert rung in caught.value.message
    assert len(heard) == 6, "each step is told when it is known"
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected"]
    rejected = read_manifest(tmp_path / "out.rejected")
    assert rejected.recipe["name"] == "bf16" and rejected.gate["rung"] == "16 bits"


@pytest.mark.slow
def test_a_better_solver_is_the_first_rung(
    tmp_path: Path, heldout: Path, damage: Callable[[tuple[str, ...]], None]
) -> None:
    """The fault is in rounding alone; gptaq goes another way through the code and passes, with calibration on record."""
    damage(("int4",))
    result = export(
        tmp_path / "out", heldout, solver="rtn", calibration=CalibrationWish(tokens=4096, n_ctx=256)
    )
    assert [(step.rung, step.verdict) for step in result.path] == [
        ("as asked", "fail"),
        ("solver gptaq", "pass"),
    ]
    manifest = read_manifest(tmp_path / "out")
    assert manifest.recipe["solver"] == "gptaq" and manifest.calibration["tokens"] == 4096
    assert len(manifest.calibration["sha256"]) == 64 and manifest.calibration["used_by"] == ["solver gptaq"]


@pytest.mark.slow
def test_rungs_that_failed_before_a_kill_are_not_tried_again(
    tmp_path: Path, heldout: Path, damage: Callable[[tuple[str, ...]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(("int4",))
    built: list[str] = []

    def killed(plan: Any, shop: Any) -> Any:
        built.append(plan.recipe.name)
        if len(built) == 2:
            raise KeyboardInterrupt
        return build(plan, shop)

    monkeypatch.setattr("edgeport.export.pipeline.build", killed)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "out", heldout, solver="rtn", budget=HURRY)
    result = export(tmp_path / "out", heldout, solver="rtn", budget=HURRY)
    assert built == ["int4", "int8", "int8"]
    assert [step.verdict for step in result.path] == ["fail", "skipped", "skipped", "skipped", "pass"]


def test_a_random_twin_is_exported_and_not_judged(exports: Exports) -> None:
    out, done = exports["llama"]
    manifest = read_manifest(out)
    assert done.returncode == 0
    assert "gate: not judged: baseline not sane" in done.stdout
    assert manifest.gate["verdict"] == "not judged" and manifest.gate["lines"] == []
    assert "guessing among its 512 tokens" in manifest.gate["reason"]
    assert manifest.gate["baseline"]["perplexity"] > 51


def test_the_gate_can_be_left_out(tmp_path: Path, tiny_llama_dir: Path) -> None:
    request = ExportRequest(
        str(tiny_llama_dir), "edge", tmp_path / "out", formats=("gguf",), gate=GateWish(enabled=False)
    )
    result = run(make_plan(request), progress=NO_PROGRESS)
    assert result.report is None and read_manifest(tmp_path / "out").gate == {}


def test_without_held_out_text_the_model_writes_it(tmp_path: Path, tiny_llama_dir: Path) -> None:
    source = open_source(str(tiny_llama_dir))
    with Staging(tmp_path / "out", resume=True) as staging:
        text = sample_heldout(source, staging, 1, NO_PROGRESS)
        assert text.path.stat().st_size > 1000
        assert "sampled" in text.origin and str(HELDOUT_SEED) in text.origin
        before = text.path.stat().st_mtime_ns
        assert sample_heldout(source, staging, 1, NO_PROGRESS).path.stat().st_mtime_ns == before


def test_calibration_on_the_held_out_text_is_refused(tmp_path: Path, heldout: Path) -> None:
    wish = CalibrationWish(wanted=str(heldout), tokens=2048, n_ctx=256)
    with pytest.raises(UsageError, match="heldout"):
        export(tmp_path / "out", heldout, solver="gptq", calibration=wish)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_format_with_its_own_scheme_is_judged_and_does_not_climb(tmp_path: Path, heldout: Path) -> None:
    """No rung of the ladder changes what llama.cpp makes of Q2_K, so there is nothing to climb for."""
    wish = CalibrationWish(tokens=4096, n_ctx=256)
    with pytest.raises(GateFailure, match="gguf-q2_k") as caught:
        export(tmp_path / "out", heldout, formats=("gguf", "gguf-q2_k"), solver="rtn", calibration=wish)
    assert "INT8" not in caught.value.message
    rejected = read_manifest(tmp_path / "out.rejected")
    assert verdicts(rejected)["gguf", "perplexity"] == "pass"
    assert rejected.container("gguf-q2_k").weights_id != rejected.container("gguf").weights_id


@pytest.mark.slow
def test_deployment_checks_measure_against_sixteen_bits(tmp_path: Path, heldout: Path) -> None:
    gate = GateWish(
        heldout=heldout, deployment_checks=True, ladder=False, thresholds=Thresholds(memory_saving=0.4)
    )
    result = export(tmp_path / "out", heldout, solver="rtn", gate=gate)
    lines = {line.name: line for line in result.report.lines} if result.report is not None else {}
    assert lines["memory saved"].verdict == "pass" and (lines["memory saved"].measured or 0) > 0.5
    assert lines["long run"].verdict == "pass"
    assert lines["speed"].verdict in ("pass", "not judged") and "tokens/s" in lines["speed"].detail
    impossible = GateWish(heldout=heldout, deployment_checks=True, thresholds=Thresholds(memory_saving=0.99))
    with pytest.raises(GateFailure, match="memory saved"):
        export(tmp_path / "big", heldout, solver="rtn", gate=impossible)
    document = json.loads((tmp_path / "big.rejected" / "manifest.json").read_text())
    assert [step["rung"] for step in document["gate"]["ladder"]] == ["as asked"], "more bits save no memory"


@pytest.mark.slow
def test_the_mix_goes_into_every_container(tmp_path: Path, heldout: Path) -> None:
    result = export(
        tmp_path / "out",
        heldout,
        formats=("gguf", "onnx"),
        solver="rtn",
        budget=Budget(bits=5.6),
        calibration=CalibrationWish(tokens=8192, n_ctx=256),
    )
    manifest = read_manifest(tmp_path / "out")
    assert result.path[-1].rung == "as asked" and manifest.gate["verdict"] == "pass"
    assert 5.4 < manifest.model.bits_per_weight <= 5.6
    assert manifest.recipe["overrides"] and manifest.recipe["mix"]["kept"]
    assert len({entry.weights_id for entry in manifest.containers}) == 1
