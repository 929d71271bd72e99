"""benchmarks/plan_accuracy.py and published_speeds.py: errors, aims, what is kept, and the page; nothing is measured here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import page_table
import plan_accuracy
import published_speeds
from plan_accuracy_measure import workload_for
from plan_accuracy_others import bandwidth_only_tokens_per_s, llmfit_tokens_per_s
from plan_accuracy_rows import (
    Case,
    Interval,
    Measured,
    Others,
    Predicted,
    Row,
    keep,
    kept,
    missed,
    relative_error,
    spreads,
)
from plan_accuracy_text import page, row_cells, terminal

from edgeport.devices.catalog import load_profile
from edgeport.devices.known_models import load_known
from edgeport.devices.profile import KernelRates, PublishedSpeed
from edgeport.errors import UsageError
from edgeport.export.synthetic import synthetic_shapes

ROOT = Path(__file__).resolve().parents[2]
MEASURED = Measured(1000, 10.0, 100.0, 0.01, 500, "llama.cpp 1", "abc")


def row(context_length: int, *, peak: int = 1000, decode: float = 10.0, format_name: str = "gguf") -> Row:
    """Measured 1000 bytes and 10 tokens/s; what was predicted is given."""
    return Row(
        Case("twin", "int4", format_name, context_length),
        MEASURED,
        Predicted(peak, Interval(decode, decode * 0.8, decode * 1.2), None),
        Others(None, 20.0, 5.0),
    )


def test_errors_are_relative_to_what_was_measured() -> None:
    assert relative_error(11, 10) == pytest.approx(0.1)
    assert relative_error(9, 10) == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="measurement of 0"):
        relative_error(1, 0)


def test_the_distribution_has_median_worst_and_the_share_inside_the_interval() -> None:
    rows = [row(1, peak=1010), row(2, peak=950), row(3, peak=1100, decode=20, format_name="onnx")]
    found = {(item.figure, item.of): item for item in spreads(rows)}
    memory = found["memory", "all"]
    assert (memory.count, memory.worst_case) == (3, "twin-int4-onnx-3")
    assert memory.median == pytest.approx(0.05) and memory.worst == pytest.approx(0.1)
    assert found["memory", "gguf"].worst == pytest.approx(0.05)
    assert found["decode", "all"].inside == pytest.approx(2 / 3)
    assert found["decode", "bandwidth / file size"].median == pytest.approx(1.0)
    assert found["decode", "llmfit's formula"].median == pytest.approx(0.5)
    assert ("prefill", "all") not in found and ("memory", "accelerate estimate-memory") not in found


def test_aims_are_met_or_the_miss_is_told() -> None:
    assert missed(spreads([row(1), row(2)])) == []
    lines = missed(spreads([row(1), row(2), row(3, peak=1110, decode=12.6)]))
    assert (
        len(lines) == 2
        and "memory: worst error 11.0%" in lines[0]
        and "decode: worst error 26.0%" in lines[1]
    )
    assert any("memory: median" in line for line in missed(spreads([row(1, peak=1060), row(2, peak=1060)])))
    assert missed([]) == ["memory: nothing was measured", "decode: nothing was measured"]


def test_measurements_are_kept_for_the_same_weights_and_engine_only(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "a.json"
    assert kept(path, weights_id="abc", engine="llama.cpp 1") is None
    keep(MEASURED, path)
    assert kept(path, weights_id="abc", engine="llama.cpp 1") == MEASURED
    assert kept(path, weights_id="other", engine="llama.cpp 1") is None
    assert kept(path, weights_id="abc", engine="llama.cpp 2") is None
    path.write_text(path.read_text()[:40])
    assert kept(path, weights_id="abc", engine="llama.cpp 1") is None


@pytest.mark.parametrize("context_length", [64, 1024, 4096])
def test_the_speed_tests_end_where_the_context_does(context_length: int) -> None:
    asked = workload_for(context_length, 5)
    assert asked.context_length == context_length and asked.repetitions == 5
    assert min(asked.n_prompt, asked.n_gen, asked.n_depth) > 0


def test_rules_of_thumb_are_those_that_were_published() -> None:
    assert bandwidth_only_tokens_per_s(10e9, 500_000_000) == 20
    assert llmfit_tokens_per_s(1008e9, 8 * 10**9, "int4") == pytest.approx(1008 / 4 * 0.55)
    assert llmfit_tokens_per_s(1008e9, 8 * 10**9, "int8") == pytest.approx(1008 / 8 * 0.55)


def test_a_profile_that_was_not_calibrated_or_on_this_very_shape_is_refused() -> None:
    pi = load_profile("raspberry-pi-5-8gb")
    shape = load_known("qwen2.5-0.5b")
    with pytest.raises(UsageError, match="holds no measured kernel rates"):
        plan_accuracy.require_independent(replace(pi, kernels=()), shape)
    calibrated = replace(pi, kernels=(KernelRates("llama.cpp", 4, 10**10),))
    plan_accuracy.require_independent(calibrated, shape)
    synthetic = synthetic_shapes(10**8, 4)[0]
    same = replace(shape, hidden_size=synthetic.hidden_size, caches=shape.caches[:1] * synthetic.layers)
    with pytest.raises(UsageError, match="shape of a calibration model"):
        plan_accuracy.require_independent(calibrated, same)


def test_tables_hold_every_row_and_say_what_was_missed() -> None:
    rows = [row(1024), row(4096, peak=1500)]
    found = spreads(rows)
    for text in (terminal(rows, found), page(rows, found, "a machine, 2 threads")):
        assert "+50.0%" in text and "memory: worst error 50.0%" in text and "Missed" in text
    assert len(row_cells(rows[0])) == 13
    assert "All met" in terminal(rows[:1], spreads(rows[:1]))


def test_two_tables_stand_on_one_page(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    first, second = page_table.begin("first.py"), page_table.begin("second.py")
    target.write_text(f"a\n{first}\n{page_table.END}\nb\n{second}\n{page_table.END}\nc\n")
    page_table.insert("one", target, "first.py")
    page_table.insert("two", target, "second.py")
    assert target.read_text() == (
        f"a\n{first}\n\none\n\n{page_table.END}\nb\n{second}\n\ntwo\n\n{page_table.END}\nc\n"
    )
    target.write_text(f"{first}\n{second}\n{page_table.END}\n")
    with pytest.raises(ValueError, match="must hold the line"):
        page_table.insert("one", target, "first.py")


def test_at_least_25_published_figures_test_the_predictions() -> None:
    pairs, left = published_speeds.compare(published_speeds.shipped_profiles())
    assert len(published_speeds.counted(pairs)) >= 25
    assert len(left) < len(pairs) / 4, [item.reason for item in left]
    assert all(pair.low <= pair.predicted <= pair.high for pair in pairs)


def test_the_page_is_what_the_script_prints(tmp_path: Path) -> None:
    """When this fails: python benchmarks/published_speeds.py --page docs/devices.md"""
    shown = ROOT / "docs" / "devices.md"
    made = tmp_path / "devices.md"
    made.write_text(shown.read_text())
    published_speeds.main(["--page", str(made)])
    assert made.read_text() == shown.read_text(), (
        "python benchmarks/published_speeds.py --page docs/devices.md"
    )


def test_figures_that_made_a_constant_stand_apart_and_do_not_count() -> None:
    pi = load_profile("raspberry-pi-5-8gb")
    free = PublishedSpeed("llama-3.2-3b", "llama.cpp", "Q4_K_M", "https://a", decode_tokens_per_s=1.0)
    used = replace(free, used=True, decode_tokens_per_s=1e6)
    unknown = replace(free, scheme="3 bits or so")
    pairs, left = published_speeds.compare([replace(pi, published=(free, used, unknown))])
    assert [pair.published for pair in published_speeds.counted(pairs)] == [free]
    text = published_speeds.text(pairs, left)
    summary, tables = text.split("\n\n", 1)
    assert "1 figures" in summary and "1e+06" in tables and "3 bits or so" in tables
    assert pairs[0].error > 0 and not pairs[0].is_inside
