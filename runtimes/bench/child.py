"""What runs in the fresh process that each measurement gets: plain JSON in, plain JSON out.

Speed, memory, a cold load and energy are processes of their own: a memory figure taken after twelve repetitions holds their
caches, and a speed figure taken while memory is sampled holds the sampling.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.manifest import base_format, from_json, to_json
from edgeport.runtimes.bench.energy import POWERCAP
from edgeport.runtimes.bench.energy_run import energy_of_session
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
from edgeport.runtimes.bench.page_cache import drop_from_page_cache, read_into_page_cache
from edgeport.runtimes.bench.timeline import MemoryMoment, MemoryTimeline, watched_memory
from edgeport.runtimes.engine_settings import EngineSettings, settings_from
from edgeport.runtimes.engines import ENGINES, open_session
from edgeport.runtimes.session import Session, SessionOptions

_SETTINGS_VARIABLE = "EDGEPORT_ENGINE_SETTINGS"
"""EngineSettings as JSON: every function here opens its session with them."""


@dataclass(frozen=True, slots=True)
class SpeedSamples:
    load_ns: int
    """From the path to a session that can be fed; the engine's library is imported already."""
    ttft_cold_ns: int | None
    prompt: Samples | None
    generation: Samples | None


@dataclass(frozen=True, slots=True)
class MemoryRun:
    use: MemoryUse
    timeline: tuple[MemoryMoment, ...]


def measure_speed(
    format_name: str,
    path: str,
    workload: Mapping[str, Any],
    *,
    threads: int,
    context_length: int,
    files: Sequence[str] = (),
) -> Any:
    """SpeedSamples as JSON. files: read once before, so that the load is a warm one."""
    asked: Workload = from_json(Workload, workload)
    import_engine(format_name)
    read_into_page_cache(map(Path, files))
    start = time.perf_counter_ns()
    session = _open(format_name, path, threads, context_length)
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
    """MemoryUse as JSON, without decoding."""
    timeline = MemoryTimeline()
    return to_json(_memory_use(format_name, path, (threads, context_length), (n_prompt, 0), timeline))


def measure_memory_over_time(
    format_name: str, path: str, tokens: Sequence[int], *, threads: int, context_length: int, watch: bool
) -> Any:
    """MemoryRun as JSON. tokens: of the prompt, and to decode after it. watch: start the sampling process, which takes memory
    itself where a control group counts."""
    n_prompt, n_gen = tokens
    with watched_memory(os.getpid()) if watch else nullcontext(MemoryTimeline()) as timeline:
        use = _memory_use(format_name, path, (threads, context_length), (n_prompt, n_gen), timeline)
    return to_json(MemoryRun(use, timeline.moments))


def measure_cold_load(
    format_name: str, path: str, files: Sequence[str], *, threads: int, context_length: int
) -> int | None:
    """Nanoseconds from the path to a session, the files read from the disk; None where they could not be dropped from memory."""
    import_engine(format_name)
    if not drop_from_page_cache([Path(file) for file in files]):
        return None
    start = time.perf_counter_ns()
    session = _open(format_name, path, threads, context_length)
    load_ns = time.perf_counter_ns() - start
    session.close()
    return load_ns


def measure_energy(
    format_name: str,
    path: str,
    workload: Mapping[str, Any],
    *,
    threads: int,
    context_length: int,
    powercap: str = str(POWERCAP),
) -> Any:
    """Energy as JSON."""
    import_engine(format_name)

    def opened() -> Session:
        return _open(format_name, path, threads, context_length)

    return to_json(energy_of_session(opened, from_json(Workload, workload), root=Path(powercap)))


def import_engine(format_name: str) -> None:
    """Import the adapter and what it needs, so that loading a container is timed and weighed alone."""
    engine = ENGINES[base_format(format_name)]
    for module in (*engine.packages, engine.opener.partition(":")[0]):
        importlib.import_module(module)


def _memory_use(
    format_name: str, path: str, options: tuple[int, int], tokens: tuple[int, int], timeline: MemoryTimeline
) -> MemoryUse:
    """options: threads and context length. tokens: of the prompt, and decoded after it as far as the context allows."""
    threads, context_length = options
    timeline.enter("import")
    import_engine(format_name)
    before_load = sample_memory()
    timeline.enter("load")
    session = _open(format_name, path, threads, context_length)
    after_load = sample_memory()
    timeline.enter("prompt")
    n_prompt = max(1, min(tokens[0], session.context_length))
    session.feed(random_tokens(n_prompt, session.vocab_size, seed=0))
    after_prompt = sample_memory()
    timeline.enter("decode")
    n_gen = min(tokens[1], session.context_length - n_prompt)
    for token in random_tokens(n_gen, session.vocab_size, seed=1):
        session.feed((token,))
    after_decode = sample_memory() if n_gen else None
    session.close()
    return MemoryUse(before_load, after_load, after_prompt, n_prompt, context_length, after_decode, n_gen)


def settings_environment(settings: EngineSettings) -> dict[str, str]:
    """The environment of a child whose sessions are to have these settings."""
    chosen = settings.chosen()
    return {_SETTINGS_VARIABLE: json.dumps(chosen)} if chosen else {}


def _open(format_name: str, path: str, threads: int, context_length: int) -> Session:
    settings = settings_from(json.loads(os.environ.get(_SETTINGS_VARIABLE, "{}")))
    options = SessionOptions(threads=threads, context_length=context_length, settings=settings)
    return open_session(format_name, Path(path), options)
