"""The tables of `edgeport bench`: what was measured of each container, and what a reader has to know to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeport.cli.emulation import emulation_text
from edgeport.table import format_table
from edgeport.units import format_bytes

if TYPE_CHECKING:
    from edgeport.manifest import DraftEntry
    from edgeport.runtimes.bench.run import BenchReport
    from edgeport.runtimes.bench.speed import Rate, Speed

ABSENT = "-"


def report_text(report: BenchReport) -> str:
    if not report.containers:
        lines = [f"{report.artifact}: nothing was measured"]
        return "\n".join([*lines, *(emulation_text(report.emulation) if report.emulation else [])])
    lines = [_speed_table(report), "", _memory_table(report.containers)]
    predicted = _prediction_table(report.containers)
    return "\n".join([*lines, *predicted, "", *_notes(report)])


def _speed_table(report: BenchReport) -> str:
    first = report.containers[0]
    prefill, decode = (rate.test if rate else ABSENT for rate in (first.prefill, first.decode))
    headers = [
        "format", "engine", f"{prefill} t/s", f"{decode} t/s", "cv", "first token", "cold", "p50", "p95", "p99",
        "bandwidth", "J/token",
    ]  # fmt: skip
    rows = [
        [
            speed.format,
            f"{speed.engine} {speed.engine_version or ''}".strip(),
            _rate(speed.prefill),
            _rate(speed.decode),
            _variation(speed),
            milliseconds(speed.ttft_warm_ms),
            milliseconds(speed.ttft_cold_ms),
            *_latencies(speed),
            ABSENT if speed.roofline is None else str(speed.roofline),
            _joules(speed),
        ]
        for speed in report.containers
    ]
    return format_table(headers, rows, right=set(range(2, len(headers))))


def _memory_table(containers: Sequence[Speed]) -> str:
    headers = ["format", "load", "cold", "peak memory", "steady", "anonymous", "mapped"]
    rows = []
    for speed in containers:
        memory = speed.memory
        steady = (memory.after_decode or memory.after_prompt) if memory else None
        figures = (
            memory.after_prompt.peak_resident_bytes if memory else None,
            steady.resident_bytes if steady else None,
            steady.anonymous_bytes if steady else None,
            steady.mapped_file_bytes if steady else None,
        )
        rows.append(
            [
                speed.format,
                milliseconds(speed.load_ms),
                milliseconds(speed.load_cold_ms),
                *(ABSENT if value is None else format_bytes(value) for value in figures),
            ]
        )
    return format_table(headers, rows, right=set(range(1, len(headers))))


def _prediction_table(containers: Sequence[Speed]) -> list[str]:
    headers = ["format", "peak memory predicted", "prefill t/s predicted", "decode t/s predicted"]
    rows, basis = [], []
    for speed in containers:
        found = speed.predicted
        if found is None:
            continue
        low, high = found.prefill_low_tokens_per_s, found.prefill_high_tokens_per_s
        rows.append(
            [
                speed.format,
                f"{format_bytes(found.memory_low_bytes)} to {format_bytes(found.memory_high_bytes)}",
                ABSENT if low is None or high is None else f"{low:.1f} to {high:.1f}",
                f"{found.decode_low_tokens_per_s:.1f} to {found.decode_high_tokens_per_s:.1f}",
            ]
        )
        basis.append(f"{speed.format}: predicted by {found.profile}: {found.basis}")
    return ["", format_table(headers, rows, right={1, 2, 3}), *basis] if rows else []


def _notes(report: BenchReport) -> list[str]:
    from edgeport.runtimes.engine_settings import settings_from

    first = report.containers[0]
    environment = report.environment
    bandwidth = report.bandwidth_bytes_per_s
    measured = "unavailable" if bandwidth is None else f"{bandwidth / 1e9:.1f} GB/s"
    load = "unavailable" if environment.load_average is None else f"{environment.load_average:g}"
    notes = [
        f"{environment.cpu_model}, {first.threads} threads, context {first.context_length}, "
        f"{first.repetitions} repetitions; memory reads {measured}; load at the start {load}"
    ]
    notes += [
        f"{speed.format} as tuned here: {settings_from(speed.settings)} (--no-tuned leaves that out)"
        for speed in report.containers
        if speed.settings
    ]
    energy = first.energy
    if energy is not None:
        idle = (
            "" if energy.idle_watts is None else f"{', '.join(energy.zones)}, idle {energy.idle_watts:.1f} W"
        )
        notes.append(f"energy: {energy.unavailable or idle}")
    noisy = [
        f"{speed.format} {rate.test} ({rate.variation:.0%})"
        for speed in report.containers
        for rate in (speed.prefill, speed.decode)
        if rate is not None and rate.noisy
    ]
    if noisy:
        notes.append(f"noisy, measure again on an idle machine: {', '.join(noisy)}")
    if report.draft is not None:
        notes.append(_draft_note(report.draft))
    if report.emulation is not None:
        notes += ["", *emulation_text(report.emulation)]
    return notes


def _draft_note(draft: DraftEntry) -> str:
    kept = (
        "not measured" if draft.acceptance_rate is None else f"{draft.acceptance_rate:.0%} of its proposals"
    )
    return f"without the draft in {draft.folder} (kept on text: {kept}); time it as an artifact of its own"


def _rate(rate: Rate | None) -> str:
    """As llama-bench prints it."""
    return ABSENT if rate is None else f"{rate.tokens_per_s:.2f} ± {rate.standard_deviation:.2f}"


def _variation(speed: Speed) -> str:
    """The larger of both tests'."""
    found = [rate.variation for rate in (speed.prefill, speed.decode) if rate is not None]
    return f"{max(found):.1%}" if found else ABSENT


def _latencies(speed: Speed) -> list[str]:
    tokens = speed.inter_token
    if tokens is None:
        return [ABSENT] * 3
    return [milliseconds(value) for value in (tokens.p50_ms, tokens.p95_ms, tokens.p99_ms)]


def _joules(speed: Speed) -> str:
    energy = speed.energy
    return ABSENT if energy is None or energy.joules_per_token is None else f"{energy.joules_per_token:.3g}"


def milliseconds(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"
