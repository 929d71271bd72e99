"""What the ladder tries, in which order, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.errors import DoesNotFit, UnsupportedModel
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.gate.ladder import BEST_SOLVER, WEAKER, Rung, lift, rungs
from edgeport.export.methods import with_solver
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.export.recipe import load_recipe
from edgeport.export.request import Budget, ExportRequest, GateWish, make_plan, replan
from edgeport.export.sizes import checkpoint_bytes
from edgeport.export.source import open_source
from edgeport.scheme import TensorScheme


@pytest.fixture
def spec(tiny_llama_dir: Path) -> DecoderSpec:
    return open_source(str(tiny_llama_dir)).spec


def names(spec: DecoderSpec, recipe: str, solver: str = "rtn", dtype: str = "bf16") -> list[str]:
    return [rung.name for rung in rungs(spec, with_solver(load_recipe(recipe), solver), dtype)]


def test_from_rounding_to_sixteen_bits(spec: DecoderSpec) -> None:
    assert names(spec, "int4") == [
        "solver gptaq",
        "mixed precision",
        "more mixed precision",
        "INT8",
        "16 bits",
    ]


def test_only_what_is_above(spec: DecoderSpec) -> None:
    assert names(spec, "int4", "gptq")[0] == "solver gptaq"
    for best in ("gptaq", "learned"):
        assert names(spec, "int4", best)[0] == "mixed precision"
    assert names(spec, "int8") == ["16 bits"]
    assert names(spec, "bf16") == [] and names(spec, "f16") == []


def test_every_solver_has_its_place(spec: DecoderSpec) -> None:
    """A new solver is either below the best or, like `learned`, beyond what a ladder starts by itself."""
    assert set(SOLVERS) == {*WEAKER, BEST_SOLVER, "learned"}


def test_every_rung_weighs_more_than_the_one_before(spec: DecoderSpec) -> None:
    found = rungs(spec, with_solver(load_recipe("int4"), "rtn"), "bf16")
    bits = [
        rung.mix.target_bits
        if rung.mix is not None and rung.mix.target_bits is not None
        else checkpoint_bytes(spec, rung.recipe) * 8 / spec.parameters()
        for rung in found
    ]
    assert bits == sorted(bits) and len(set(bits)) == len(bits)
    assert [rung.recipe.solver for rung in found] == ["gptaq", "gptaq", "gptaq", "rtn", "rtn"]


def test_sixteen_bits_are_those_of_the_source(spec: DecoderSpec) -> None:
    assert rungs(spec, load_recipe("int4"), "f16")[-1].recipe.name == "f16"
    assert rungs(spec, load_recipe("int4"), "f32")[-1].recipe.name == "bf16"


def test_int8_keeps_blocks_and_what_was_wider_already(spec: DecoderSpec) -> None:
    from dataclasses import replace

    recipe = replace(
        load_recipe("int4"),
        linear=TensorScheme("int4", 64),
        overrides={"*.q_proj.weight": TensorScheme("f16")},
    )
    lifted = lift(spec, recipe)
    assert str(lifted.linear) == "int8-g64" and str(lifted.overrides["*.q_proj.weight"]) == "f16"


PROFILE = """
tier = "edge"
kind = "board"
description = "a board that holds the model in four bits and not in sixteen"
ram_gib = 1.0
usable_ram_gib = 0.5
memory_bandwidth_gb_per_s = 1.0
cores = 1
recipe = "int4"
engines = ["llama.cpp"]
formats = ["gguf"]
context_length = 64
"""


def test_a_rung_that_does_not_fit_the_device_is_refused(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "board.toml").write_text(PROFILE)
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path))
    request = ExportRequest(str(tiny_llama_dir), "board", tmp_path / "out")
    low, high = (
        make_plan(ExportRequest(str(tiny_llama_dir), "board", tmp_path / "out", recipe=name))
        for name in ("int4", "bf16")
    )
    room = (low.fits[0].memory.required_bytes + high.fits[0].memory.required_bytes) // 2
    tight = ExportRequest(str(tiny_llama_dir), "board", tmp_path / "out", budget=Budget(memory_bytes=room))
    plan = make_plan(tight)
    assert plan.recipe.name == request.recipe or plan.recipe.name == "int4"
    sixteen = plan.ladder[-1]
    with pytest.raises(DoesNotFit, match="does not fit"):
        replan(plan, sixteen)


def test_rungs_stay_within_target_bits(tiny_llama_dir: Path, tmp_path: Path) -> None:
    plan = make_plan(
        ExportRequest(str(tiny_llama_dir), "edge", tmp_path / "out", budget=Budget(bits=6.2), solver="rtn")
    )
    assert plan.mix is not None and plan.mix.target_bits == 6.2
    refused = {}
    for rung in plan.ladder:
        try:
            replan(plan, rung)
        except DoesNotFit as error:
            refused[rung.name] = error.message
    assert set(refused) >= {"INT8", "16 bits"} and "--target-bits 6.2" in refused["INT8"]


def test_a_rung_that_would_lose_a_container_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """An export that was asked for four containers does not end with three."""
    plan = make_plan(ExportRequest(str(tiny_llama_dir), "edge", tmp_path / "out"))
    low = Rung("two bits", load_recipe("int4"))
    from dataclasses import replace

    low = replace(low, recipe=replace(low.recipe, linear=TensorScheme("int2", 32)))
    with pytest.raises(UnsupportedModel, match="gguf"):
        replan(plan, low)


def test_no_ladder_where_nothing_is_judged(tiny_llama_dir: Path, tmp_path: Path) -> None:
    for gate, verify in (
        (GateWish(enabled=False), True),
        (GateWish(ladder=False), True),
        (GateWish(), False),
    ):
        request = ExportRequest(str(tiny_llama_dir), "edge", tmp_path / "out", gate=gate, verify=verify)
        assert make_plan(request).ladder == ()
