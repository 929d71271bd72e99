"""Memory over time: seen from outside, by stage, with its peaks; the page cache; what a manifest keeps of it."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

from edgeport.manifest import from_json, to_json
from edgeport.runtimes.bench.page_cache import cached_share, drop_from_page_cache, read_into_page_cache
from edgeport.runtimes.bench.timeline import (
    MemoryMoment,
    MemoryTimeline,
    thinned,
    watched_memory,
)

MIB = 2**20


def test_stages_are_told_apart_even_while_the_process_keeps_pythons_lock() -> None:
    pause = ctypes.PyDLL(
        None
    ).usleep  # keeps the lock, as an engine does while it loads: no thread of ours could look
    with watched_memory(os.getpid(), interval_s=0.005) as timeline:
        timeline.enter("import")
        pause(100_000)
        timeline.enter("load")
        block = np.ones(64 * MIB, np.uint8)
        pause(100_000)
        timeline.enter("prompt")
        del block
        pause(100_000)
    by_stage = {
        stage: [moment for moment in timeline.moments if moment.stage == stage]
        for stage in ("import", "load", "prompt", "decode")
    }
    assert min(len(by_stage[stage]) for stage in ("import", "load", "prompt")) >= 5
    assert by_stage["decode"] == []
    before, during = by_stage["import"][-1], by_stage["load"][-1]
    assert 60 * MIB < during.anonymous_bytes - before.anonymous_bytes < 70 * MIB
    assert abs(during.mapped_file_bytes - before.mapped_file_bytes) < 8 * MIB
    assert by_stage["prompt"][-1].resident_bytes < during.resident_bytes - 50 * MIB
    assert all(
        item.resident_bytes == item.anonymous_bytes + item.mapped_file_bytes for item in timeline.moments
    )
    assert [item.seconds for item in timeline.moments] == sorted(item.seconds for item in timeline.moments)
    assert from_json(MemoryMoment, to_json(during)) == during


def test_a_process_that_is_gone_leaves_no_moments() -> None:
    with watched_memory(2**22 + 1) as timeline:
        timeline.enter("import")
    assert timeline.moments == ()


def test_a_half_written_line_is_left_out() -> None:
    timeline = MemoryTimeline()
    timeline.enter("import")
    now = time.monotonic()
    timeline.fill([f"{now} 10 20 0\n", f"{now + 1} 10 2"])
    assert [(item.anonymous_bytes, item.mapped_file_bytes) for item in timeline.moments] == [(10240, 20480)]


def test_thinning_keeps_the_peak_and_every_stage() -> None:
    moments = [
        MemoryMoment(index / 100, "load" if index < 7 else "decode", 100 + (index == 1234) * 900, 0, 0)
        for index in range(5000)
    ]
    kept = thinned(moments, most=50)
    assert 50 <= len(kept) <= 52
    assert max(item.resident_bytes for item in kept) == 1000
    assert {item.stage for item in kept} == {"load", "decode"}
    assert thinned(moments[:50], most=50) == tuple(moments[:50])


def test_a_file_leaves_the_page_cache_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(4 * MIB))
    if not drop_from_page_cache([path]):
        pytest.skip("this file system keeps its files in memory")
    assert cached_share(path) == 0.0
    read_into_page_cache([path])
    assert cached_share(path) == 1.0
    assert drop_from_page_cache([path])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory file system")
def test_a_file_that_cannot_be_dropped_is_not_called_cold() -> None:
    path = Path("/dev/shm") / f"edgeport-test-{os.getpid()}"
    try:
        path.write_bytes(bytes(MIB))
        assert not drop_from_page_cache([path])
    finally:
        path.unlink()
