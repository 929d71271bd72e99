"""What runs in the fresh process that each measurement gets: plain JSON in, plain JSON out.

Speed and memory are two processes: a memory figure taken after twelve repetitions holds their caches, and a speed
figure taken while memory is sampled holds the sampling.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.manifest import base_format, from_json, to_json
from edgeport.runtimes.bench.measure import (
    Samples,
    Workload,
    first_token_ns,
    fit_workload,
    measure_generation,
    measure_prompt,
    random_tokens,
)
from edgeport.runtimes.bench.memory import MemoryUse, sample_memory
from edgeport.runtimes.engines import ENGINES, open_session
from edgeport.runtimes.session import SessionOptions


@dataclass(frozen=True, slots=True)
class SpeedSamples:
    load_ns: int
    """From the path to a session that can be fed; the engine's library is imported already."""
    ttft_cold_ns: int | None
    prompt: Samples | None
    generation: Samples | None


def measure_speed(
    format_name: str, path: str, workload: Mapping[str, Any], *, threads: int, context_length: int
) -> Any:
    """SpeedSamples as JSON."""
    asked: Workload = from_json(Workload, workload)
    import_engine(format_name)
    start = time.perf_counter_ns()
    session = open_session(
        format_name, Path(path), SessionOptions(threads=threads, context_length=context_length)
    )
    load_ns = time.perf_counter_ns() - start
    actual = fit_workload(asked, session.context_length)
    cold = None
    if actual.n_prompt:
        cold = first_token_ns(session, random_tokens(actual.n_prompt, session.vocab_size, seed=actual.seed))
    samples = SpeedSamples(
        load_ns=load_ns,
        ttft_cold_ns=cold,
        prompt=measure_prompt(session, asked) if asked.n_prompt else None,
        generation=measure_generation(session, asked) if asked.n_gen else None,
    )
    session.close()
    return to_json(samples)


def measure_memory(format_name: str, path: str, *, n_prompt: int, threads: int, context_length: int) -> Any:
    """MemoryUse as JSON."""
    import_engine(format_name)
    before_load = sample_memory()
    session = open_session(
        format_name, Path(path), SessionOptions(threads=threads, context_length=context_length)
    )
    after_load = sample_memory()
    count = max(1, min(n_prompt, session.context_length))
    session.feed(random_tokens(count, session.vocab_size, seed=0))
    after_prompt = sample_memory()
    session.close()
    return to_json(MemoryUse(before_load, after_load, after_prompt, count, context_length))


def import_engine(format_name: str) -> None:
    """Import the adapter and what it needs, so that loading a container is timed and weighed alone."""
    engine = ENGINES[base_format(format_name)]
    for module in (*engine.packages, engine.opener.partition(":")[0]):
        importlib.import_module(module)
