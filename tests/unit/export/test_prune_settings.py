"""Settings from plain values, and the plan: what is refused, what is rounded, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.prune.plan import PrunePlan, plan_prune
from edgeport.export.prune.settings import PruneSettings, parse_amount, parse_prune, settings_from
from edgeport.export.prune.snap import snap_for, snap_width
from edgeport.export.source import open_source

REFERENCE = Path(__file__).resolve().parents[3] / "models" / "reference"


def planned(model: Path = REFERENCE, formats: tuple[str, ...] = (), **settings: Any) -> PrunePlan:
    return plan_prune(open_source(str(model)), settings_from(settings), formats)


def test_a_point_makes_a_share() -> None:
    assert parse_amount("0.75") == 0.75 and isinstance(parse_amount("1.0"), float)
    assert parse_amount("576") == 576 and isinstance(parse_amount("1"), int)


@pytest.mark.parametrize("text", ["", "x", "-1", "75%", "1e3", "1.", "0,75"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an amount"):
        parse_amount(text)


def test_a_document_reads_back() -> None:
    settings = PruneSettings(ffn=0.75, heads=4, vocabulary="auto", importance="random", snap=64, seed=3)
    problems: list[str] = []
    document = json.loads(json.dumps(settings.to_document()))
    assert parse_prune(document, problems=problems) == settings and not problems


def test_every_problem_is_told_at_once() -> None:
    problems: list[str] = []
    document = {
        "fnn": 0.5,
        "ffn": 1.5,
        "heads": 0,
        "layers": True,
        "embedding": "wide",
        "vocabulary": 3,
        "reconstruct": "yes",
        "snap": 48,
        "importance": "luck",
    }
    parse_prune(document, problems=problems)
    told = "; ".join(problems)
    for part in (
        "'fnn', did you mean 'ffn'",
        "ffn is 1.5",
        "heads is 0",
        "layers is True",
        "embedding is 'wide'",
    ):
        assert part in told
    for part in ("vocabulary is 3", "reconstruct is 'yes'", "snap is 48", "importance 'luck'"):
        assert part in told


def test_an_importance_that_cannot_rank_what_is_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="'last' cannot rank ffn"):
        settings_from({"ffn": 0.5, "importance": "last"})
    with pytest.raises(UsageError, match="'magnitude' cannot rank layers"):
        settings_from({"layers": 3, "importance": "magnitude"})


@pytest.mark.parametrize(
    ("target", "snap", "width"), [(576, 32, 576), (560, 32, 576), (559, 32, 544), (3, 32, 32), (767, 32, 768)]
)
def test_widths_are_the_nearest_multiple(target: float, snap: int, width: int) -> None:
    assert snap_width(target, 768, snap) == width


@pytest.mark.parametrize(
    ("formats", "snap"),
    [
        ((), 32),
        (("gguf", "onnx", "openvino"), 32),
        (("gguf-q8_0",), 32),
        (("bitsandbytes-nf4",), 64),
        (("safetensors",), 128),
        (("gguf", "gguf-q4_k_m", "safetensors"), 256),
        (("gguf-iq4_nl",), 32),
    ],
)
def test_formats_ask_for_multiples(formats: tuple[str, ...], snap: int) -> None:
    assert snap_for(formats)[0] == snap


def test_the_plan_says_when_it_rounds() -> None:
    plan = planned(ffn=0.7)
    assert plan.spec.intermediate_size == 544
    assert "FFN width: 544 instead of 537.6, the nearest multiple of 32" in plan.notes
    wide = planned(ffn=0.7, formats=("gguf-q4_k_m",))
    assert wide.spec.intermediate_size == 512
    assert any("gguf-q4_k_m" in note for note in wide.notes)
    assert planned(ffn=0.75).notes == ()


def test_parameters_are_forecast_exactly() -> None:
    plan = planned(ffn=0.75, layers=5)
    saved = 3 * 256 * (768 - 576) * 5 + (3 * 256 * 768 + 2 * 256 * (256 + 64) + 2 * 256)
    assert plan.source.spec.parameters() - plan.spec.parameters() == saved
    assert plan.to_document()["after"]["size_bytes_bf16"] == 2 * plan.spec.parameters()


def test_more_than_a_third_at_once_is_warned_of() -> None:
    assert planned(ffn=0.75).warnings == ()
    (told,) = planned(ffn=0.25, layers=4).warnings
    assert "more than a third" in told


def test_heads_that_transformers_could_not_open_are_rounded() -> None:
    """Six of eight heads do not divide the hidden width of 256."""
    plan = planned(heads=5)
    assert (plan.spec.heads, plan.spec.kv_heads, plan.spec.head_dim) == (4, 2, 32)
    assert "attention heads: 4 instead of 5; possible are 2, 4, 8" in plan.notes


def test_the_hidden_width_stays_a_multiple_of_the_heads(tiny_twin: Callable[[str], Path]) -> None:
    plan = planned(tiny_twin("llama-3.2-1b"), embedding=0.6, snap=32)
    assert plan.spec.hidden_size == 64 and plan.spec.hidden_size % plan.spec.heads == 0
    assert plan.config["head_dim"] == plan.source.spec.head_dim


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to prune"):
        planned()
    with pytest.raises(UsageError, match="--ffn 900: the model has 768"):
        planned(ffn=900)
    with pytest.raises(UsageError, match="nothing is cut"):
        planned(ffn=0.99)
    with pytest.raises(UsageError, match="unknown format 'gguv'"):
        planned(ffn=0.5, formats=("gguv",))


def test_layers_of_mixed_attention_are_refused(edited: Callable[..., Path], tiny_qwen2_dir: Path) -> None:
    model = edited(tiny_qwen2_dir, config={"layer_types": ["full_attention", "sliding_attention"]})
    with pytest.raises(UnsupportedModel, match="more than one kind of attention"):
        planned(model, layers=1)


def test_layer_types_follow_the_depth(edited: Callable[..., Path], tiny_qwen2_dir: Path) -> None:
    model = edited(tiny_qwen2_dir, config={"layer_types": ["full_attention"] * 2, "max_window_layers": 2})
    config = planned(model, layers=1).config
    assert (config["layer_types"], config["max_window_layers"]) == (["full_attention"], 1)
