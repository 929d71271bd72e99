"""The memory of each stage is its own, and stands beside what was predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.devices.conversion import PROCESS_BYTES, StageMemory
from edgeport.export import timing
from edgeport.export.timing import Clock, compare_memory

MIB = 2**20


def touch(mib: int) -> None:
    np.ones(mib * MIB, np.uint8).sum()


def test_a_stage_has_its_own_peak() -> None:
    clock = Clock()
    with clock.timed("large"):
        touch(200)
    with clock.timed("small"):
        touch(1)
    assert 190 * MIB < clock.peak_bytes["large"] - clock.peak_bytes["small"] < 215 * MIB


def test_a_stage_within_a_stage_counts_for_both() -> None:
    clock = Clock()
    with clock.timed("outer"):
        with clock.timed("inner"):
            touch(200)
        touch(1)
    with clock.timed("after"):
        touch(1)
    assert clock.peak_bytes["outer"] >= clock.peak_bytes["inner"] > clock.peak_bytes["after"] + 190 * MIB


def test_what_runs_twice_keeps_the_larger_peak() -> None:
    clock = Clock()
    with clock.timed("twice"):
        touch(200)
    first = clock.peak_bytes["twice"]
    with clock.timed("twice"):
        touch(1)
    assert clock.peak_bytes["twice"] == first


def test_predicted_beside_measured() -> None:
    clock = Clock(peak_bytes={"pack gguf": 5, "pack onnx": 7, "quantize": 3, "statistics": 11, "golden": 2})
    predicted = [StageMemory(name, 10, "") for name in ("quantize", "pack", "calibrate", "learn", "other")]
    found = {row["stage"]: row["measured_bytes"] for row in compare_memory(predicted, clock)}
    assert found == {"quantize": 3, "pack": 7, "calibrate": 11, "learn": 3}


def test_a_pass_within_quantizing_is_compared_with_it() -> None:
    clock = Clock(peak_bytes={"quantize": 9, "golden": 2})
    predicted = [StageMemory(name, 10, "") for name in ("quantize", "golden", "calibrate")]
    found = {row["stage"]: row["measured_bytes"] for row in compare_memory(predicted, clock)}
    assert found == {"calibrate": 9, "golden": 2}


def test_a_system_that_does_not_tell_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PROCESS", tmp_path)
    clock = Clock()
    with clock.timed("stage"):
        touch(1)
    assert clock.peak_bytes == {} and "stage" in clock.seconds


def test_what_earlier_stages_left_in_the_process_is_taken_off() -> None:
    held = PROCESS_BYTES + 700
    clock = Clock(
        peak_bytes={"statistics": held, "pack gguf": held + 30},
        held_bytes={"statistics": 650, "pack gguf": held},
    )
    predicted = [StageMemory("calibrate", 10, ""), StageMemory("pack", 10, "")]
    found = {row["stage"]: row["measured_bytes"] for row in compare_memory(predicted, clock)}
    assert found == {"calibrate": held, "pack": PROCESS_BYTES + 30}
