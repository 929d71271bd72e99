"""A long generation in a child process: every logit finite, memory level, no token much slower than the first ones."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.runtimes.bench.memory import sample_memory
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions


def long_run(format_name: str, path: str, *, threads: int, context_length: int) -> dict[str, Any]:
    """Greedy tokens until the cache is full. drift: median time per token of the last quarter over that of the first."""
    session = open_session(
        format_name, Path(path), SessionOptions(threads=threads, context_length=context_length)
    )
    logits = session.feed([0])[-1]
    before = sample_memory().resident_bytes or 0
    seconds, finite = [], bool(np.isfinite(logits).all())
    while session.position < session.context_length and finite:
        started = time.perf_counter()
        logits = session.feed([int(logits.argmax())])[-1]
        seconds.append(time.perf_counter() - started)
        finite = bool(np.isfinite(logits).all())
    grown = (sample_memory().resident_bytes or 0) - before
    session.close()
    quarter = max(len(seconds) // 4, 1)
    # The first tokens pay for allocations and lazy compilation.
    first, last = seconds[min(8, len(seconds) // 2) :][:quarter], seconds[-quarter:]
    drift = statistics.median(last) / statistics.median(first) if first and last else 1.0
    return {"tokens": len(seconds) + 1, "finite": finite, "drift": drift, "grown_bytes": max(grown, 0)}
