"""What a benchmark leaves behind: the record of one container in the manifest, and llama-bench's line of each test.

All fields are plain JSON in the end; names carry their units. None means "not measured" or "unavailable".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeport.runtimes.bench.energy import Energy
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.bench.measure import Samples
from edgeport.runtimes.bench.memory import MemoryUse
from edgeport.runtimes.bench.prediction import Prediction
from edgeport.runtimes.bench.roofline import Roofline
from edgeport.runtimes.bench.statistics import NOISY_VARIATION, percentile, percentiles, summarize
from edgeport.runtimes.bench.timeline import MemoryMoment


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second over the repetitions of one test."""

    test: str
    tokens_per_s: float
    """Mean, as llama-bench prints."""
    standard_deviation: float
    median_tokens_per_s: float
    variation: float
    noisy: bool
    """The coefficient of variation is above 5 %: something else used the machine."""
    samples_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """Of single decoded tokens, over all repetitions."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    maximum_ms: float
    percentiles_ms: tuple[float, ...] = ()
    """The 0 %, 1 %, ... 100 % percentiles: 101 values, for a plot of the distribution."""


@dataclass(frozen=True, slots=True)
class Speed:
    """One container on one machine: `Manifest.speed[format]`."""

    format: str
    engine: str
    engine_version: str | None
    weights_id: str
    measured_at: str
    threads: int
    context_length: int
    n_prompt: int
    n_gen: int
    n_depth: int
    repetitions: int
    seed: int
    load_ms: float
    ttft_cold_ms: float | None
    """First prompt of a fresh process, after loading."""
    ttft_warm_ms: float | None
    """Median of the repetitions."""
    prefill: Rate | None
    decode: Rate | None
    inter_token: Latency | None
    memory: MemoryUse | None
    roofline: Roofline | None
    environment: Environment
    load_cold_ms: float | None = None
    """The same with the container's files dropped from the page cache before; None where they could not be."""
    memory_timeline: tuple[MemoryMoment, ...] = ()
    energy: Energy | None = None
    predicted: Prediction | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the engine, where they were not the adapter's own (edgeport.runtimes.engine_settings)."""


@dataclass(frozen=True, slots=True)
class BenchLine:
    """One test under llama-bench's own JSON keys, and beside them what it does not have."""

    build_commit: str
    """The engine and its version: an edgeport installation has no commit."""
    cpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    n_threads: int
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: tuple[int, ...]
    samples_ts: tuple[float, ...]
    test: str
    format: str
    weights_id: str
    context_length: int
    token_ns: tuple[tuple[int, ...], ...]
    ttft_ns: tuple[int, ...]


def rate(samples: Samples) -> Rate:
    summary = summarize(samples.samples_ts)
    return Rate(
        test=samples.test,
        tokens_per_s=summary.mean,
        standard_deviation=summary.standard_deviation,
        median_tokens_per_s=summary.median,
        variation=summary.variation,
        noisy=summary.variation > NOISY_VARIATION,
        samples_ns=samples.samples_ns,
    )


def latency(samples: Samples) -> Latency | None:
    """None for a prompt test, which decodes nothing."""
    tokens_ms = [token / 1e6 for repetition in samples.token_ns for token in repetition]
    if not tokens_ms:
        return None
    return Latency(
        p50_ms=percentile(tokens_ms, 50),
        p95_ms=percentile(tokens_ms, 95),
        p99_ms=percentile(tokens_ms, 99),
        maximum_ms=max(tokens_ms),
        percentiles_ms=percentiles(tokens_ms, range(101)),
    )


def bench_line(
    speed: Speed, samples: Samples, *, model_filename: str, model: tuple[str, int, int]
) -> BenchLine:
    """`model` is llama-bench's (type, size in bytes, parameters)."""
    nanoseconds, tokens = summarize(samples.samples_ns), summarize(samples.samples_ts)
    return BenchLine(
        build_commit=f"{speed.engine} {speed.engine_version or ''}".strip(),
        cpu_info=speed.environment.cpu_model,
        backends="CPU",
        model_filename=model_filename,
        model_type=model[0],
        model_size=model[1],
        model_n_params=model[2],
        n_threads=speed.threads,
        n_prompt=samples.n_prompt,
        n_gen=samples.n_gen,
        n_depth=samples.n_depth,
        test_time=samples.test_time,
        avg_ns=round(nanoseconds.mean),
        stddev_ns=round(nanoseconds.standard_deviation),
        avg_ts=tokens.mean,
        stddev_ts=tokens.standard_deviation,
        samples_ns=samples.samples_ns,
        samples_ts=samples.samples_ts,
        test=samples.test,
        format=speed.format,
        weights_id=speed.weights_id,
        context_length=speed.context_length,
        token_ns=samples.token_ns,
        ttft_ns=samples.ttft_ns,
    )
