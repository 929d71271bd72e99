"""Recipes that prune and recover: what they parse to, what they plan, what they refuse, and which rungs follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.errors import DoesNotFit, RecipeError, UsageError
from edgeport.export.gate.ladder import rungs
from edgeport.export.preparation import RecoveryWish, plan_preparation, settle_recovery
from edgeport.export.prune.settings import PruneSettings
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.recover.settings import DistillSettings
from edgeport.export.request import Budget, ExportPlan, ExportRequest, GateWish, make_plan
from edgeport.export.source import open_source

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "models" / "reference"


def pruning(**amounts: object) -> Recipe:
    return parse({**load_recipe("int4").to_document(), "prune": amounts}, default_name="cut")


def planned(tmp_path: Path, recipe: str | None = "edge-pruned", **changes: object) -> ExportPlan:
    request = ExportRequest(str(REFERENCE), "edge", tmp_path / "out", recipe=recipe, threads=1)
    return make_plan(replace(request, **changes))  # type: ignore[arg-type]


def test_a_table_becomes_settings_and_survives_the_manifest() -> None:
    document = {
        **load_recipe("int4").to_document(),
        "prune": {"ffn": 0.5, "layers": 5},
        "recover": {"steps": 7, "text": ["auto", "self"], "teacher": "big/model"},
    }
    recipe = parse(document, default_name="x")
    assert recipe.prune == PruneSettings(ffn=0.5, layers=5)
    assert recipe.recover == DistillSettings(steps=7, text=("auto", "self"))
    assert recipe.teacher == "big/model" and recipe.prepares
    assert parse(recipe.to_document(), default_name="x") == recipe
    assert not load_recipe("int4").prepares


def test_every_problem_of_every_table_at_once() -> None:
    document = {
        **load_recipe("int4").to_document(),
        "prune": {"fnn": 0.5, "layers": -1},
        "recover": {"steps": "many", "teacher": 3},
    }
    with pytest.raises(RecipeError) as told:
        parse(document, default_name="x")
    for part in ("prune: unknown key 'fnn', did you mean 'ffn'?", "prune: layers is -1", "recover: steps is 'many'",
                 "recover.teacher is 3"):  # fmt: skip
        assert part in told.value.message
    with pytest.raises(RecipeError, match="prune is 3, expected a table"):
        parse({**load_recipe("int4").to_document(), "prune": 3}, default_name="x")


def test_the_plan_is_for_the_pruned_shape(tmp_path: Path) -> None:
    whole, cut = planned(tmp_path, "int4"), planned(tmp_path)
    assert cut.facts.intermediate_size == 576 and whole.facts.intermediate_size == 768
    assert cut.facts.parameters == whole.facts.parameters - 6 * 3 * 192 * 256
    assert cut.sizes_bytes["gguf"] < whole.sizes_bytes["gguf"]
    assert cut.original.spec.intermediate_size == 768 and cut.source.spec.intermediate_size == 576
    assert cut.ram_bytes > whole.ram_bytes and cut.disk_bytes > whole.disk_bytes
    assert cut.calibration is not None and "pruning" in cut.calibration.reasons
    assert cut.preparation is not None
    told = "\n".join(cut.preparation.lines())
    assert "feed-forward 768 -> 576" in told and "at most 10 min" in told


def test_a_device_that_int4_is_too_large_for_gets_the_pruned_recipe(tmp_path: Path) -> None:
    needed = min(fit.memory.required_bytes for fit in planned(tmp_path, "int4").fits)
    small = planned(tmp_path, None, budget=Budget(memory_bytes=needed - 1))
    assert small.recipe.name == "edge-pruned"
    assert planned(tmp_path, None, budget=Budget(memory_bytes=needed)).recipe.name == "int4"
    with pytest.raises(DoesNotFit):
        planned(tmp_path, None, budget=Budget(memory_bytes=1 << 20))
    with pytest.raises(DoesNotFit):
        planned(tmp_path, "int4", budget=Budget(memory_bytes=needed - 1))


def test_the_ladder_ends_without_pruning(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    names = [rung.name for rung in plan.ladder]
    assert names[:2] == ["INT8 of the prepared model", "without pruning"]
    first, whole = plan.ladder[0].recipe, plan.ladder[1].recipe
    assert first.prune == plan.recipe.prune and first.linear.kind == "int8"
    assert not whole.prepares and whole.linear == plan.recipe.linear
    assert names[2:] == [rung.name for rung in rungs(plan.original.spec, whole, "bf16")]
    off = planned(tmp_path, gate=GateWish(enabled=False))
    assert off.ladder == ()


def test_what_was_asked_for_replaces_the_recipes(tmp_path: Path) -> None:
    wish = RecoveryWish(text=("self",), minutes=3)
    recipe = settle_recovery(load_recipe("edge-pruned"), wish)
    assert recipe.recover is not None
    assert (recipe.recover.text, recipe.recover.minutes) == (("self",), 3)
    assert recipe.prune == load_recipe("edge-pruned").prune
    assert settle_recovery(recipe, RecoveryWish(store=tmp_path)) is recipe
    counted = parse({**recipe.to_document(), "recover": {"steps": 5}}, default_name="x")
    timed = settle_recovery(counted, wish).recover
    assert timed is not None and timed.steps is None and timed.minutes == 3
    with pytest.raises(UsageError, match="recovers nothing"):
        settle_recovery(load_recipe("int4"), wish)


def test_what_an_export_refuses() -> None:
    source = open_source(str(REFERENCE))
    with pytest.raises(UsageError, match="cannot be trimmed within an export"):
        plan_preparation(source, pruning(vocabulary="auto"), ())
    with pytest.raises(UsageError, match="would learn from itself"):
        plan_preparation(source, load_recipe("distill-int8"), ())
    with pytest.raises(UsageError, match="no such model folder"):
        plan_preparation(source, settle_recovery(load_recipe("distill-int8"), RecoveryWish("nowhere")), ())
    assert plan_preparation(source, load_recipe("int4"), ()) is None


def test_learning_that_does_not_fit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeport.devices.probe import read_host

    host = read_host()
    monkeypatch.setattr(
        "edgeport.export.recover.memory.read_host", lambda: replace(host, available_bytes=300 << 20)
    )
    with pytest.raises(DoesNotFit, match="distillation needs"):
        plan_preparation(open_source(str(REFERENCE)), load_recipe("edge-pruned"), ())
