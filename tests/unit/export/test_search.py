"""Candidates, limits, the Pareto front, the ranking, and the recipe files a search leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeport.cli.search_page import table_rows, write_page
from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.recipe_file import write_recipe
from edgeport.export.request import ExportRequest
from edgeport.export.search.candidates import Limits, SearchSpace, make_candidates
from edgeport.export.search.choose import Measured, front, ranking
from edgeport.export.search.run import SearchRequest, SearchResult, plan_search

NO_LIMITS = Limits()
REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"


def item(
    name: str, size_bytes: int, divergence: float | None, ratio: float = 1.01, **more: object
) -> Measured:
    found = Measured(name, 10, size_bytes, size_bytes * 2, 1e9 / size_bytes, ratio, divergence, 0.9, "gguf")
    return replace(found, **more)  # type: ignore[arg-type]


ITEMS = (
    item("large", 400, 0.01),
    item("bad", 300, 0.2, ratio=1.3),
    item("dominated", 350, 0.03),
    item("middle", 250, 0.02),
    item("small", 100, 0.04, ratio=1.04),
    item("refused", 50, None, refused="too slow"),
)


def test_the_front_holds_what_nothing_beats() -> None:
    assert [found.name for found in front(ITEMS)] == ["small", "middle", "large"]
    # Brute force, by the definition.
    known = [one for one in ITEMS if one.mean_kl_divergence is not None]
    for one in known:
        beaten = any(
            other is not one and other.size_bytes <= one.size_bytes and other.loss <= one.loss
            for other in known
        )
        assert beaten == (one.name not in ("small", "middle", "large"))


@pytest.mark.parametrize(
    ("prefer", "names"),
    [
        ("quality", ["large", "middle", "dominated", "small"]),
        ("size", ["small", "middle", "dominated", "large"]),
        ("speed", ["small", "middle", "dominated", "large"]),
    ],
)
def test_the_ranking_leaves_out_what_loses_too_much(prefer: str, names: list[str]) -> None:
    assert [found.name for found in ranking(ITEMS, prefer=prefer, most_loss=0.05)] == names
    assert [found.name for found in ranking(ITEMS, prefer=prefer, most_loss=0.02)] == [
        name for name in names if name != "small"
    ]


def test_an_unknown_preference_names_the_known() -> None:
    with pytest.raises(UsageError) as told:
        ranking(ITEMS, prefer="beauty", most_loss=0.05)
    assert told.value.hint is not None and "quality, size, speed" in told.value.hint


def request(tmp_path: Path, space: SearchSpace, limits: Limits = NO_LIMITS) -> SearchRequest:
    return SearchRequest(ExportRequest(str(REFERENCE), "edge", tmp_path, threads=1), space, limits)


def test_every_combination_with_its_plan(tmp_path: Path) -> None:
    space = SearchSpace(ffn=(1.0, 0.75), layers=(1.0, 5), recipes=("int8", "bf16"), minutes=2)
    found = plan_search(request(tmp_path, space))
    assert [one.name for one in found] == [
        "int8", "bf16", "layers5-int8", "layers5-bf16", "ffn0.75-int8", "ffn0.75-bf16", "ffn0.75-layers5-int8",
        "ffn0.75-layers5-bf16",
    ]  # fmt: skip
    whole, both = found[0], found[-2]
    assert whole.recipe.prune is None and whole.recipe.recover is None
    assert both.plan is not None and both.recipe.recover is not None and both.recipe.recover.minutes == 2
    assert (both.plan.facts.layers, both.plan.facts.intermediate_size) == (5, 576)
    for one in found:
        assert load_recipe(str(one.file)) == one.recipe


def test_one_layer_is_not_all_of_them(tmp_path: Path) -> None:
    space = SearchSpace(ffn=(1.0,), layers=(1, 1.0), recipes=("int8",), minutes=0)
    cut, whole = plan_search(request(tmp_path, space))
    assert cut.plan is not None and whole.plan is not None
    assert (cut.plan.facts.layers, whole.plan.facts.layers) == (1, 6)
    assert cut.recipe.recover is None


def test_limits_say_no_with_the_number(tmp_path: Path) -> None:
    space = SearchSpace(ffn=(1.0, 0.75), recipes=("int8",))
    sizes = [one.size_bytes for one in plan_search(request(tmp_path, space))]
    whole, cut = plan_search(request(tmp_path, space, Limits(size_bytes=sizes[0] - 1)))
    assert "of weights, allowed are" in whole.refused and not cut.refused
    speeds = [one.decode_tokens_per_s for one in (whole, cut)]
    slow, quick = plan_search(request(tmp_path, space, Limits(decode_tokens_per_s=sum(speeds) / 2)))
    assert "tokens/s predicted" in slow.refused and not quick.refused
    with pytest.raises(DoesNotFit, match="none of 2 candidates is within the limits"):
        plan_search(request(tmp_path, space, Limits(size_bytes=1)))


def test_spaces_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to try for ffn"):
        SearchSpace(ffn=())
    twice = SearchSpace(ffn=(0.75, 0.75), recipes=("int8",))
    with pytest.raises(UsageError, match="the same combination twice"):
        make_candidates(twice, ExportRequest(str(REFERENCE), "edge", tmp_path / "out"), Limits(), tmp_path)


def test_a_recipe_file_reads_back(tmp_path: Path) -> None:
    document = {
        **load_recipe("int4").to_document(),
        "description": 'quotes " and \\ and ü',
        "overrides": {"model.layers.0.*.weight": "int8-g64"},
        "prune": {"ffn": 0.5, "heads": 4},
        "recover": {
            "steps": 9,
            "text": ["auto", "a b"],
            "options": {"rank": 8, "target": "all-linear"},
            "kind": "full",
        },
    }
    recipe: Recipe = parse(document, default_name="int4")
    write_recipe(recipe, tmp_path / "x.toml")
    assert load_recipe(str(tmp_path / "x.toml")) == recipe


def test_the_page_shows_front_choice_and_refusals(tmp_path: Path) -> None:
    result = SearchResult(
        ITEMS, ("small", "middle", "large"), "middle", {"large": "the gate says no"}, tmp_path
    )
    rows = {row[0]: row for row in table_rows(result)}
    assert rows["middle"][-1] == "front, chosen" and rows["dominated"][-1] == ""
    assert rows["refused"][-1] == "left out: too slow" and rows["refused"][5] == ""
    assert rows["large"][-1] == "front, gate: the gate says no"
    page = write_page(result, "a title").read_text(encoding="utf-8")
    assert page.count('class="mark"') == 3 and page.count('class="hollow"') == 2
    assert "left out: too slow" in page
