"""What a plan says of solvers, calibration, budgets, schemes of a format's own, and the gate, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeport.cli import main
from edgeport.errors import DoesNotFit, RecipeError, UsageError
from edgeport.export.methods import CalibrationWish
from edgeport.export.request import Budget, ExportPlan, ExportRequest, GateWish, make_plan


@pytest.fixture
def plan_of(tiny_llama_dir: Path, tmp_path: Path) -> Any:
    def plan(**changes: Any) -> ExportPlan:
        return make_plan(ExportRequest(str(tiny_llama_dir), "edge", tmp_path / "out", **changes))

    return plan


def test_rounding_needs_no_calibration(plan_of: Any) -> None:
    plan = plan_of(solver="rtn")
    assert plan.solver.name == "rtn" == plan.recipe.solver
    assert plan.calibration is None and plan.mix is None and plan.solver.seconds == 0


def test_a_solver_brings_its_calibration(plan_of: Any) -> None:
    plan = plan_of(solver="gptq", calibration=CalibrationWish("self", 4096))
    assert plan.recipe.solver == "gptq", "the manifest's recipe says what was used"
    assert plan.calibration is not None
    assert (plan.calibration.wanted, plan.calibration.tokens, plan.calibration.n_ctx) == ("self", 4096, 256)
    assert plan.calibration.reasons == ("solver gptq",)
    assert plan.disk_bytes > plan_of(solver="rtn").disk_bytes, "the pass keeps its layers"


def test_auto_is_settled_with_a_reason(plan_of: Any) -> None:
    plan = plan_of(solver="auto")
    assert plan.recipe.solver != "auto" and "on this machine" in plan.solver.reason
    hurried = plan_of(solver="auto", budget=Budget(time_s=1e-9))
    assert hurried.solver.name == "rtn" and "would take longer" in hurried.solver.reason


def test_floats_need_no_solver(plan_of: Any) -> None:
    plan = plan_of(recipe="bf16", solver="gptq")
    assert plan.solver.name == "rtn" and plan.calibration is None and plan.ladder == ()


def test_a_budget_of_bits_is_a_mix(plan_of: Any) -> None:
    plan = plan_of(budget=Budget(bits=6.5), solver="rtn")
    assert plan.recipe.name == "int4" and plan.mix is not None and plan.mix.target_bits == 6.5
    assert plan.calibration is not None and plan.calibration.reasons == ("the choice of bits",)


def test_budgets_that_cannot_be_met_are_refused_with_the_least_possible(plan_of: Any) -> None:
    with pytest.raises(DoesNotFit, match=r"1\.5 bits per weight are fewer") as caught:
        plan_of(budget=Budget(bits=1.5))
    assert caught.value.hint is not None and "--target-bits" in caught.value.hint
    with pytest.raises(DoesNotFit, match="cannot hold gguf") as caught:
        plan_of(budget=Budget(size_bytes=10_000), formats=("gguf",))
    assert caught.value.hint is not None and "--target-size" in caught.value.hint
    with pytest.raises(UsageError, match="portable format"):
        plan_of(budget=Budget(size_bytes=10_000), formats=("gguf-q4_k_m",))


def test_target_memory_overrides_the_device(plan_of: Any) -> None:
    plan = plan_of(budget=Budget(memory_bytes=1 << 30))
    assert plan.profile.usable_ram_bytes == 1 << 30
    assert all(fit.available_bytes == 1 << 30 for fit in plan.fits)
    with pytest.raises(DoesNotFit, match="does not fit"):
        plan_of(budget=Budget(memory_bytes=1 << 20))


def test_a_scheme_of_the_formats_own_is_forecast(plan_of: Any) -> None:
    plan = plan_of(formats=("gguf", "gguf-q4_k_m"), solver="rtn")
    assert plan.formats == ("gguf", "gguf-q4_k_m") and plan.portable == ("gguf",)
    native = plan.native["gguf-q4_k_m"]
    assert (
        native.base == "gguf"
        and native.bits_per_weight > 4
        and plan.sizes_bytes["gguf-q4_k_m"] == native.size_bytes
    )
    assert plan.calibration is not None and plan.calibration.reasons == ("gguf-q4_k_m",)
    alone = plan_of(formats=("gguf-q4_k_m",), solver="rtn")
    assert alone.portable == () and alone.ladder == () and alone.fits == ()


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"solver": "gptqq"}, RecipeError, "unknown solver 'gptqq'"),
        ({"formats": ("gguf-q9_k",)}, UsageError, "unknown format 'gguf-q9_k'"),
        ({"calibration": CalibrationWish(tokens=0)}, UsageError, "calibration of 0 tokens"),
        ({"gate": GateWish(heldout=Path("nowhere.txt"))}, UsageError, "no such held-out text"),
        ({"budget": Budget(bits=-1)}, UsageError, "--target-bits -1"),
        ({"budget": Budget(bits=5, size_bytes=10**6)}, UsageError, "not both"),
    ],
)
def test_bad_wishes(plan_of: Any, changes: dict[str, Any], kind: type[UsageError], told: str) -> None:
    with pytest.raises(kind, match=told):
        plan_of(**changes)


def test_the_plan_tells_all_of_it(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tiny_llama_dir), "--device", "edge", "-o", str(tmp_path / "out"), "--dry-run"]
    words += ["--solver", "imatrix", "--format", "gguf,gguf-q2_k", "--target-bits", "6.5", "--max-loss", "3%"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for told in (
        "solver imatrix",
        "calibration on 32768 tokens",
        "within 6.5 bits",
        "gguf-q2_k",
        "3.0% worse",
        "INT8",
    ):
        assert told in shown, told
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["solver"]["name"] == "imatrix" and document["mix"]["target_bits"] == 6.5
    assert document["gate"]["thresholds"]["perplexity_loss"] == pytest.approx(0.03)
    assert document["gate"]["ladder"][-1]["rung"] == "16 bits"
    assert document["calibration"]["used_by"] == ["solver imatrix", "the choice of bits", "gguf-q2_k"]
    assert document["own_schemes"]["gguf-q2_k"]["bits_per_weight"] > 2
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-loss", "5"], "not a share"),
        (["--target-size", "300 apples"], "not a size"),
        (["--time-budget", "soon"], "not a duration"),
        (["--target-bits", "5", "--target-size", "3MB"], "not allowed with"),
    ],
)
def test_bad_words(
    tiny_llama_dir: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["export", str(tiny_llama_dir), "--device", "edge", "-o", str(tmp_path / "out"), *words])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2 and told in capsys.readouterr().err
