"""One row of a sweep: one combination in a process of its own, or the reason why it has no figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.errors import EdgeportError
from edgeport.manifest import Manifest, base_format, from_json, to_json
from edgeport.runtimes.bench.child import SpeedSamples
from edgeport.runtimes.bench.container_roofline import roofline_or_none
from edgeport.runtimes.bench.container_run import TIMEOUT_S, model_columns
from edgeport.runtimes.bench.machine import Machine, engine_version
from edgeport.runtimes.bench.measure import Samples, Workload
from edgeport.runtimes.bench.result_line import EDGEPORT, ResultLine
from edgeport.runtimes.bench.roofline import Roofline, mean_cache_entries
from edgeport.runtimes.bench.speed import Latency, latency, rate
from edgeport.runtimes.bench.statistics import median, summarize
from edgeport.runtimes.bench.sweep import Combination
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.isolation import run_isolated


@dataclass(frozen=True, slots=True)
class SweepRow:
    """line.note: why there is no figure, or that it is noisy. inter_token, roofline: of a generation. ttft_ms: the median of a
    prompt test."""

    line: ResultLine
    variation: float | None = None
    inter_token: Latency | None = None
    roofline: Roofline | None = None
    ttft_ms: float | None = None
    load_ms: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True)
class SweepSetting:
    """What is the same for all rows. machines: by thread count."""

    directory: Path
    manifest: Manifest
    machines: Mapping[int, Machine]
    repetitions: int


def measure_row(row: Combination, setting: SweepSetting) -> SweepRow:
    """Never raises for what an engine does: the row then says why it has no figure."""
    reason = impossible_because(row, setting.manifest)
    if reason is not None:
        return _without_figure(row, setting, reason)
    try:
        return _measured(row, setting)
    except EdgeportError as error:
        found = _without_figure(row, setting, f"failed: {error.message.splitlines()[0]}")
        return replace(found, failed=True)


def impossible_because(row: Combination, manifest: Manifest) -> str | None:
    """What keeps a combination from being measured at all, None when nothing does."""
    if row.n_sequences > 1:
        engine = ENGINES[base_format(row.format)].name
        return f"a session of {engine} holds one sequence; several at once are not measured"
    longest = manifest.model.context_length
    room = longest if row.context_length is None else min(longest, row.context_length)
    if row.needed_tokens > room:
        return f"{row.needed_tokens} tokens do not fit a context of {room}"
    return None


def _measured(row: Combination, setting: SweepSetting) -> SweepRow:
    entry = setting.manifest.container(row.format)
    asked = Workload(row.n_prompt, row.n_gen, row.n_depth, setting.repetitions)
    reply = run_isolated(
        "edgeport.runtimes.bench.child:measure_speed",
        {
            "format_name": row.format,
            "path": str(setting.directory / entry.entry_point),
            "workload": to_json(asked),
            "threads": row.threads,
            "context_length": row.context_length or row.needed_tokens,
        },
        timeout_s=TIMEOUT_S,
    )
    samples: SpeedSamples = from_json(SpeedSamples, reply)
    test = samples.prompt or samples.generation
    assert test is not None
    found = rate(test)
    return SweepRow(
        line=_complete(_line(test), row, setting),
        variation=found.variation,
        inter_token=latency(test),
        roofline=_roofline(row, setting, found.tokens_per_s) if row.n_gen else None,
        ttft_ms=median(test.ttft_ns) / 1e6 if test.ttft_ns else None,
        load_ms=samples.load_ns / 1e6,
    )


def _roofline(row: Combination, setting: SweepSetting, tokens_per_s: float) -> Roofline | None:
    entry = setting.manifest.container(row.format)
    depth = mean_cache_entries(row.n_gen, row.n_depth)
    kv_bytes = setting.manifest.model.kv_bytes_per_token * depth
    machine = setting.machines[row.threads]
    return roofline_or_none(
        row.format, setting.directory / entry.entry_point, kv_bytes, tokens_per_s, machine
    )


def _line(test: Samples) -> ResultLine:
    found, times = rate(test), summarize(test.samples_ns)
    return ResultLine(
        source=EDGEPORT,
        test=test.test,
        n_prompt=test.n_prompt,
        n_gen=test.n_gen,
        avg_ts=found.tokens_per_s,
        stddev_ts=found.standard_deviation,
        avg_ns=round(times.mean),
        stddev_ns=round(times.standard_deviation),
        samples_ns=test.samples_ns,
        samples_ts=test.samples_ts,
        test_time=test.test_time,
        note=f"noisy ({found.variation:.0%})" if found.noisy else "",
    )


def _without_figure(row: Combination, setting: SweepSetting, reason: str) -> SweepRow:
    line = ResultLine(EDGEPORT, row.test, row.n_prompt, row.n_gen, note=reason)
    return SweepRow(_complete(line, row, setting))


def _complete(line: ResultLine, row: Combination, setting: SweepSetting) -> ResultLine:
    """With what belongs to the container and the machine."""
    entry = setting.manifest.container(row.format)
    model_type, size, parameters = model_columns(setting.manifest, entry)
    engine = ENGINES[base_format(row.format)].name
    return replace(
        line,
        n_depth=row.n_depth,
        n_sequences=row.n_sequences,
        build_commit=f"{engine} {engine_version(row.format) or ''}".strip(),
        cpu_info=setting.machines[row.threads].environment.cpu_model,
        backends="CPU",
        model_filename=entry.entry_point,
        model_type=model_type,
        model_size=size,
        model_n_params=parameters,
        n_threads=row.threads,
        context_length=row.context_length or row.needed_tokens,
        format=row.format,
        weights_id=entry.weights_id,
    )
