"""Every threshold of the gate has a case in which it says no, one just inside, and one that must not be judged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from edgeport.errors import UsageError
from edgeport.export.evaluate.generation import GenerationReport
from edgeport.export.evaluate.statistics import Quality
from edgeport.export.gate.ladder import Rung, Step, step_of
from edgeport.export.gate.lines import at_most, mendable, not_judged, overall, percent, quality_lines
from edgeport.export.gate.path import lines_text, path_text
from edgeport.export.gate.run import GateReport
from edgeport.export.gate.thresholds import DEFAULT_THRESHOLDS, Thresholds
from edgeport.export.recipe import load_recipe

PROMPTS = 8


def generation(**changes: Any) -> GenerationReport:
    base = GenerationReport(
        prompts=PROMPTS,
        new_tokens=64,
        prompts_sha256="p",
        first_divergence=(None,) * PROMPTS,
        median_first_divergence=None,
        never_diverged=1.0,
        loops=0.25,
        source_loops=0.25,
        new_loops=0.0,
    )
    return replace(base, **changes)


def quality(**changes: Any) -> Quality:
    """A container that has lost nothing worth mentioning."""
    base = Quality(
        runtime="engine",
        perplexity=10.1,
        perplexity_error=0.2,
        base_perplexity=10.0,
        base_perplexity_error=0.2,
        perplexity_ratio=1.01,
        perplexity_ratio_error=0.001,
        mean_kl_divergence=0.02,
        kl_divergence_error=0.001,
        kl_divergence_percentiles={"p99": 0.2},
        rms_delta_p=0.04,
        same_top1=0.92,
        same_top1_error=0.003,
        tokens=10_000,
        n_ctx=512,
        chunks=40,
        text_sha256="t",
        token_accuracy=0.44,
        base_token_accuracy=0.45,
        token_accuracy_ratio=0.44 / 0.45,
        generation=generation(),
    )
    return replace(base, **changes)


def verdicts(found: Quality, limits: Thresholds = DEFAULT_THRESHOLDS) -> dict[str, str]:
    return {line.name: line.verdict for line in quality_lines("gguf", found, limits)}


def test_a_good_container_passes_every_line() -> None:
    assert verdicts(quality()) == dict.fromkeys(
        ("perplexity", "same top token", "token accuracy kept", "new endless loops"), "pass"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"perplexity_ratio": 1.051}, "perplexity"),
        ({"perplexity_ratio": math.inf}, "perplexity"),
        ({"perplexity_ratio": math.nan}, "perplexity"),
        ({"same_top1": 0.849}, "same top token"),
        ({"token_accuracy_ratio": 0.949}, "token accuracy kept"),
        ({"generation": generation(new_loops=3 / PROMPTS)}, "new endless loops"),
    ],
)
def test_each_threshold_says_no_alone(changes: dict[str, Any], line: str) -> None:
    found = verdicts(quality(**changes))
    assert [name for name, verdict in found.items() if verdict == "fail"] == [line]


@pytest.mark.parametrize(
    "changes",
    [
        {"perplexity_ratio": 1.0499},
        {"perplexity_ratio": 0.9},
        {"same_top1": 0.85},
        {"token_accuracy_ratio": 0.95},
        {"generation": generation(new_loops=2 / PROMPTS)},
    ],
)
def test_just_inside_is_inside(changes: dict[str, Any]) -> None:
    assert "fail" not in verdicts(quality(**changes)).values()


def test_one_prompt_may_always_tip_over() -> None:
    """With three prompts, one is more than the share that is allowed."""
    few = generation(prompts=3, new_loops=1 / 3)
    assert verdicts(quality(generation=few))["new endless loops"] == "pass"
    assert verdicts(quality(generation=replace(few, new_loops=2 / 3)))["new endless loops"] == "fail"


def test_what_the_source_cannot_do_either_is_not_judged() -> None:
    looping = quality(generation=generation(loops=1.0, source_loops=1.0))
    assert verdicts(looping)["new endless loops"] == "not judged"
    blind = quality(token_accuracy_ratio=None, base_token_accuracy=0.0)
    assert verdicts(blind)["token accuracy kept"] == "not judged"
    assert "new endless loops" not in verdicts(quality(generation=None))


def test_max_loss_moves_the_limit() -> None:
    worse = quality(perplexity_ratio=1.08)
    assert verdicts(worse)["perplexity"] == "fail"
    assert verdicts(worse, Thresholds(perplexity_loss=0.1))["perplexity"] == "pass"
    assert verdicts(quality(), Thresholds(perplexity_loss=0.0))["perplexity"] == "fail"


def test_one_line_decides() -> None:
    good = quality_lines("gguf", quality(), DEFAULT_THRESHOLDS)
    bad = quality_lines("onnx", quality(same_top1=0.1), DEFAULT_THRESHOLDS)
    assert overall(good) == "pass" and overall(good + bad) == "fail"
    assert overall([not_judged(("gguf", "quality"), "why")]) == "not judged" and overall([]) == "not judged"


def test_more_bits_mend_quality_and_nothing_else() -> None:
    bad = quality_lines("gguf", quality(same_top1=0.1), DEFAULT_THRESHOLDS)
    slow = replace(at_most(("gguf", "speed"), 3, 1, percent), mendable=False)
    own = quality_lines("gguf-q2_k", quality(same_top1=0.1), DEFAULT_THRESHOLDS, mendable=False)
    assert mendable(bad)
    assert not mendable([*bad, slow]) and not mendable([*bad, *own]) and not mendable([])


def test_lines_are_json_without_infinities() -> None:
    lines = quality_lines("gguf", quality(perplexity_ratio=math.inf), DEFAULT_THRESHOLDS)
    report = GateReport("fail", "", tuple(lines), {}, None, "text")
    document = json.loads(json.dumps(report.to_document(), allow_nan=False))
    assert document["lines"][0]["measured"] is None and document["verdict"] == "fail"
    assert "perplexity" in lines_text(lines) and "fail" in lines_text(lines)


def test_a_step_shows_the_container_that_lost_most() -> None:
    worst = quality(perplexity_ratio=1.2, same_top1=0.7)
    found = {"gguf": quality(), "onnx": worst}
    lines = [line for name, item in found.items() for line in quality_lines(name, item, DEFAULT_THRESHOLDS)]
    report = GateReport(overall(lines), "", tuple(lines), found, None, "text")
    rung = Rung("as asked", load_recipe("int4"))
    step = step_of(rung, report, bits_per_weight=4.5, size_bytes=1000, seconds=1.23)
    assert (step.verdict, step.perplexity_ratio, step.same_top1) == ("fail", 1.2, 0.7)
    assert step.failed[0] == "onnx perplexity +20.00% (allowed <= +5.00%)" and len(step.failed) == 2
    assert Step.from_document(json.loads(json.dumps(step.to_document()))) == step
    assert "+20.00%" in path_text([step])


@pytest.mark.parametrize("changes", [{"same_top1": 1.1}, {"perplexity_loss": -0.1}, {"memory_saving": 50}])
def test_impossible_thresholds_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="not possible"):
        Thresholds(**changes)
