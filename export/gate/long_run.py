"""A long generation in a child process: every logit finite, memory level, and a second round no slower than the first."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.runtimes.bench.memory import sample_memory
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import Session, SessionOptions


def long_run(format_name: str, path: str, *, threads: int, context_length: int) -> dict[str, Any]:
    """Greedy tokens until the cache is full, and once more from the start.

    drift: median time per token of the second round over that of the first. A token late in the cache costs more than an
    early one in every engine, because attention reads more; the same positions twice show what time alone has done.
    """
    session = open_session(
        format_name, Path(path), SessionOptions(threads=threads, context_length=context_length)
    )
    session.feed([0])  # the first call pays for allocations and lazy compilation
    before = sample_memory().resident_bytes or 0
    rounds = [_fill(session) for _ in range(2)]
    grown = (sample_memory().resident_bytes or 0) - before
    session.close()
    first, second = (statistics.median(seconds) if seconds else 0.0 for seconds, _ in rounds)
    return {
        "tokens": sum(len(seconds) for seconds, _ in rounds),
        "finite": all(finite for _, finite in rounds),
        "drift": second / first if first else 1.0,
        "grown_bytes": max(grown, 0),
    }


def _fill(session: Session) -> tuple[list[float], bool]:
    """Seconds of each token from an empty cache to a full one, and whether every logit was finite; ends at one that is not."""
    session.rewind(0)
    logits = session.feed([0])[-1]
    seconds, finite = [], bool(np.isfinite(logits).all())
    while session.position < session.context_length and finite:
        started = time.perf_counter()
        logits = session.feed([int(logits.argmax())])[-1]
        seconds.append(time.perf_counter() - started)
        finite = bool(np.isfinite(logits).all())
    return seconds, finite
