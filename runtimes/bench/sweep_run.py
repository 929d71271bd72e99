"""Run a sweep: each row in a process of its own, and how long the rest will take as soon as the first rows tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from edgeport.errors import EdgeportError
from edgeport.manifest import Manifest, base_format, from_json, read_manifest, to_json
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.child import SpeedSamples
from edgeport.runtimes.bench.container_run import TIMEOUT_S, model_columns
from edgeport.runtimes.bench.environment import Environment, capture
from edgeport.runtimes.bench.machine import engine_distribution, engine_version
from edgeport.runtimes.bench.measure import Samples, Workload
from edgeport.runtimes.bench.result_line import EDGEPORT, ResultLine
from edgeport.runtimes.bench.selection import Skipped, choose_containers
from edgeport.runtimes.bench.speed import Latency, latency, rate
from edgeport.runtimes.bench.statistics import median, summarize
from edgeport.runtimes.bench.sweep import Combination, Sweep, combinations
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.isolation import run_isolated
from edgeport.units import format_seconds

LONG_S = 60.0
"""A sweep that takes longer is announced."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One combination. line.note: why there is no figure, or that it is noisy. ttft_ms: the median of a prompt test."""

    line: ResultLine
    variation: float | None = None
    inter_token: Latency | None = None
    ttft_ms: float | None = None
    load_ms: float | None = None


@dataclass(frozen=True, slots=True)
class SweepReport:
    """failed: how many combinations an engine refused; their rows say why."""

    artifact: str
    measured_at: str
    environment: Environment
    repetitions: int
    rows: tuple[SweepRow, ...]
    skipped: tuple[Skipped, ...]
    failed: int


@dataclass(slots=True)
class SweepClock:
    """Seconds that are left, from what the rows so far took: tokens over their rates, and what every process costs besides."""

    repetitions: int
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    _beside_s: list[float] = field(default_factory=list)

    def add(self, row: Combination, tokens_per_s: float, seconds: float) -> None:
        if row.n_prompt:
            self.prefill_tokens_per_s = tokens_per_s
        else:
            self.decode_tokens_per_s = tokens_per_s
        computed = self._computing_s(row)
        if computed is not None:
            self._beside_s.append(max(0.0, seconds - computed))

    def left_s(self, rows: Sequence[Combination]) -> float | None:
        """None while a kind of test among `rows` has not been seen."""
        computing = [self._computing_s(row) for row in rows]
        if not self._beside_s or None in computing:
            return None
        return sum(value or 0.0 for value in computing) + len(rows) * median(self._beside_s)

    def _computing_s(self, row: Combination) -> float | None:
        # a prompt is read once cold, once to warm up, and then repeated
        prompt_tokens = row.n_depth + (self.repetitions + 2) * row.n_prompt
        written = self.repetitions * row.n_gen
        prefill, decode = self.prefill_tokens_per_s, self.decode_tokens_per_s
        if (prompt_tokens and prefill is None and decode is None) or (written and decode is None):
            return None
        # where no prompt was timed, one token at a time is the most a token can cost
        reading = prompt_tokens / (prefill or decode or 1.0)
        return reading + (written / decode if decode else 0.0)


def run_sweep(
    directory: Path,
    sweep: Sweep,
    formats: Sequence[str] | None,
    *,
    repetitions: int = 5,
    progress: Progress = NO_PROGRESS,
    tell: Callable[[str], None] = lambda text: None,
) -> SweepReport:
    """Measure every combination; nothing is written. tell: takes one line, how long it will take, when that is long."""
    manifest = read_manifest(directory)
    entries, skipped = choose_containers(manifest, formats)
    rows = combinations(sweep, [entry.format for entry in entries])
    measured_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    environment = capture(
        ["edgeport", *dict.fromkeys(engine_distribution(entry.format) for entry in entries)]
    )
    clock, told, found, failed = SweepClock(repetitions), False, [], 0
    with progress.stage("sweep, rows", total=len(rows)) as stage:
        for index, row in enumerate(rows):
            start = time.perf_counter()
            reason = _impossible(row, manifest)
            try:
                if reason is None:
                    result = _measured(row, manifest, directory, (repetitions, environment))
            except EdgeportError as error:
                failed += 1
                reason = f"failed: {error.message.splitlines()[0]}"
            if reason is not None:
                result = _refused(row, manifest, environment, reason)
            found.append(result)
            if result.line.avg_ts:
                clock.add(row, result.line.avg_ts, time.perf_counter() - start)
            stage.advance()
            rest = [item for item in rows[index + 1 :] if not _impossible(item, manifest)]
            left = None if told else clock.left_s(rest)
            if left is not None:
                told = True
                if left >= LONG_S:
                    tell(f"{len(rest)} of {len(rows)} rows are left, about {format_seconds(left)}")
    return SweepReport(
        manifest.name, measured_at, environment, repetitions, tuple(found), tuple(skipped), failed
    )


def _impossible(row: Combination, manifest: Manifest) -> str | None:
    if row.n_sequences > 1:
        return f"a session of {ENGINES[base_format(row.format)].name} holds one sequence; several at once are not measured"
    longest = manifest.model.context_length
    room = longest if row.context_length is None else min(longest, row.context_length)
    if row.needed_tokens > room:
        return f"{row.needed_tokens} tokens do not fit a context of {room}"
    return None


def _measured(
    row: Combination, manifest: Manifest, directory: Path, how: tuple[int, Environment]
) -> SweepRow:
    repetitions, environment = how
    entry = manifest.container(row.format)
    asked = Workload(row.n_prompt, row.n_gen, row.n_depth, repetitions)
    reply = run_isolated(
        "edgeport.runtimes.bench.child:measure_speed",
        {
            "format_name": row.format,
            "path": str(directory / entry.entry_point),
            "workload": to_json(asked),
            "threads": row.threads,
            "context_length": row.context_length or row.needed_tokens,
        },
        timeout_s=TIMEOUT_S,
    )
    samples: SpeedSamples = from_json(SpeedSamples, reply)
    test = samples.prompt or samples.generation
    assert test is not None
    return _row(row, manifest, environment, samples, test)


def _row(
    row: Combination, manifest: Manifest, environment: Environment, samples: SpeedSamples, test: Samples
) -> SweepRow:
    found, times = rate(test), summarize(test.samples_ns)
    line = _line(
        row,
        manifest,
        environment,
        ResultLine(
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
        ),
    )
    ttft = median(test.ttft_ns) / 1e6 if test.ttft_ns else None
    return SweepRow(line, found.variation, latency(test), ttft, samples.load_ns / 1e6)


def _refused(row: Combination, manifest: Manifest, environment: Environment, reason: str) -> SweepRow:
    line = ResultLine(EDGEPORT, row.test, row.n_prompt, row.n_gen, note=reason)
    return SweepRow(_line(row, manifest, environment, line))


def _line(row: Combination, manifest: Manifest, environment: Environment, line: ResultLine) -> ResultLine:
    """With what belongs to the container and the machine."""
    entry = manifest.container(row.format)
    model_type, size, parameters = model_columns(manifest, entry)
    return replace(
        line,
        n_depth=row.n_depth,
        n_sequences=row.n_sequences,
        build_commit=f"{ENGINES[base_format(row.format)].name} {engine_version(row.format) or ''}".strip(),
        cpu_info=environment.cpu_model,
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
