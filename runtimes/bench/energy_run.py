"""Joules per token of one session, in a pass of its own: reading the counters would disturb the timing.

Idle power first, before anything is loaded: an engine's threads may spin while they wait. Then prompts, then tokens, each for
at least MEASURED_SECONDS, because the counters move in steps of about a millisecond.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgeport.runtimes.bench.energy import (
    IDLE_SECONDS,
    Energy,
    EnergyMeter,
    EnergyUse,
    energy_use,
    find_zones,
    watts_when_idle,
)
from edgeport.runtimes.bench.measure import Workload, fit_workload, random_tokens
from edgeport.runtimes.session import Session

MEASURED_SECONDS = 2.0


def energy_of_session(
    open_session: Callable[[], Session],
    workload: Workload,
    *,
    root: Path,
    idle_seconds: float = IDLE_SECONDS,
    measured_seconds: float = MEASURED_SECONDS,
) -> Energy:
    """Energy per token of prompts and of decoding at the workload's depth; the reason where there are no counters."""
    zones = find_zones(root)
    if isinstance(zones, str):
        return Energy(unavailable=zones)
    meter = EnergyMeter(zones)
    idle = watts_when_idle(meter, seconds=idle_seconds)
    session = open_session()
    try:
        actual = fit_workload(workload, session.context_length)
        tokens = random_tokens(max(actual.n_prompt, actual.n_gen, 1), session.vocab_size, seed=actual.seed)
        depth = random_tokens(actual.n_depth, session.vocab_size, seed=actual.seed + 1)
        if depth:
            session.feed(depth)

        def read_prompt() -> int:
            session.rewind(len(depth))
            session.feed(tokens[: actual.n_prompt])
            return actual.n_prompt

        def write_tokens() -> int:
            session.rewind(len(depth))
            for token in tokens[: actual.n_gen]:
                session.feed((token,))
            return actual.n_gen

        prefill = _used(meter, read_prompt, idle, measured_seconds) if actual.n_prompt else None
        decode = _used(meter, write_tokens, idle, measured_seconds) if actual.n_gen else None
    finally:
        session.close()
    return Energy(
        joules_per_token=decode.joules_per_token if decode is not None else None,
        prefill=prefill,
        decode=decode,
        idle_watts=idle,
        zones=tuple(zone.name for zone in zones),
    )


def _used(meter: EnergyMeter, work: Callable[[], int], idle_watts: float, at_least_s: float) -> EnergyUse:
    """`work` does one repetition and says how many tokens it took; once to warm up, then until the time is over."""
    work()
    before, start = meter.joules(), time.perf_counter()
    tokens, joules, seconds = 0, 0.0, 0.0
    while not tokens or seconds < at_least_s:
        tokens += work()
        joules = meter.joules() - before  # also keeps up with a counter that wraps
        seconds = time.perf_counter() - start
    return energy_use(tokens, seconds, joules, idle_watts=idle_watts)
