"""`auto`: the best solver within the budget, and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeport.export.quantize import choose
from edgeport.export.quantize.choose import choose_solver, estimate_seconds
from edgeport.export.source import open_source

RATE = 5e10  # multiply-adds per second: the choice must not hang on the machine the test runs on


@pytest.fixture(autouse=True)
def fixed_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "matrix_rate", lambda threads: RATE)


def chosen(directory: Path, budget_s: float | None, tokens: int = 32768) -> choose.SolverChoice:
    spec = open_source(str(directory)).spec
    return choose_solver(spec, calibration_tokens=tokens, threads=2, time_budget_s=budget_s)


def test_without_a_budget_nothing_is_distilled(tiny_llama_dir: Path) -> None:
    assert chosen(tiny_llama_dir, None).name == "gptaq"


def test_a_named_budget_that_is_long_enough_distils(tiny_llama_dir: Path) -> None:
    assert chosen(tiny_llama_dir, 7200).name == "learned"


def test_a_shorter_budget_takes_the_next_and_says_what_it_left(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    between = estimate_seconds(spec, "gptaq", calibration_tokens=32768, rate=RATE) * 0.9
    choice = chosen(tiny_llama_dir, between)
    assert choice.name == "gptq"
    assert "gptaq (" in choice.reason and "would take longer" in choice.reason
    assert choice.seconds <= between


def test_no_time_at_all_is_rounding(tiny_llama_dir: Path) -> None:
    choice = chosen(tiny_llama_dir, 1e-6)
    assert choice.name == "rtn"
    assert choice.seconds == 0


def test_what_does_not_fit_the_memory_is_left_out_and_said(tiny_llama_dir: Path) -> None:
    choice = choose_solver(
        open_source(str(tiny_llama_dir)).spec,
        calibration_tokens=1024,
        threads=2,
        time_budget_s=7200,
        fits_memory=lambda name: name == "imatrix",
    )
    assert choice.name == "imatrix"
    assert "gptq needs more memory" in choice.reason


def test_better_solvers_cost_more(tiny_llama_dir: Path) -> None:
    spec = open_source(str(tiny_llama_dir)).spec
    seconds = [
        estimate_seconds(spec, name, calibration_tokens=32768, rate=RATE)
        for name in ("rtn", "imatrix", "gptq", "gptaq", "learned")
    ]
    assert seconds == sorted(seconds)
