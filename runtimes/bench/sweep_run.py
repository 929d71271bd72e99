"""Run a sweep: each row in a process of its own, and how long the rest will take as soon as the first rows tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.bench.machine import read_machine
from edgeport.runtimes.bench.selection import Skipped, choose_containers
from edgeport.runtimes.bench.subject import open_subject
from edgeport.runtimes.bench.sweep import Combination, Sweep, combinations
from edgeport.runtimes.bench.sweep_clock import SweepClock
from edgeport.runtimes.bench.sweep_row import SweepRow, SweepSetting, impossible_because, measure_row
from edgeport.units import format_seconds

LONG_S = 60.0
"""A sweep that takes longer is announced."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SweepReport:
    artifact: str
    measured_at: str
    environment: Environment
    repetitions: int
    rows: tuple[SweepRow, ...]
    skipped: tuple[Skipped, ...]


def run_sweep(
    directory: Path,
    sweep: Sweep,
    formats: Sequence[str] | None,
    *,
    repetitions: int = 5,
    progress: Progress = NO_PROGRESS,
    tell: Tell = lambda text: None,
) -> SweepReport:
    """Measure every combination; nothing is written. tell: takes one line, how long it will take, when that is long."""
    subject = open_subject(directory)
    manifest = subject.manifest
    entries, skipped = choose_containers(manifest, formats)
    names = [entry.format for entry in entries]
    rows = combinations(sweep, names)
    measured_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    machines = {threads: read_machine(names, threads, progress=progress) for threads in sweep.threads}
    setting = SweepSetting(subject.directory, manifest, machines, repetitions)
    return SweepReport(
        artifact=manifest.name,
        measured_at=measured_at,
        environment=machines[sweep.threads[0]].environment,
        repetitions=repetitions,
        rows=tuple(_measure_rows(rows, setting, progress, tell)),
        skipped=tuple(skipped),
    )


def _measure_rows(
    rows: Sequence[Combination], setting: SweepSetting, progress: Progress, tell: Tell
) -> list[SweepRow]:
    clock, told = SweepClock(setting.repetitions), False
    found: list[SweepRow] = []
    with progress.stage("sweep, rows", total=len(rows)) as stage:
        for index, row in enumerate(rows):
            start = time.perf_counter()
            found.append(measure_row(row, setting))
            rate = found[-1].line.avg_ts
            if rate is not None:
                clock.add(row, rate, time.perf_counter() - start)
            stage.advance()
            rest = [item for item in rows[index + 1 :] if impossible_because(item, setting.manifest) is None]
            left = None if told else clock.left_s(rest)
            if left is not None:
                told = True
                if left >= LONG_S:
                    tell(f"{len(rest)} of {len(rows)} rows are left, about {format_seconds(left)}")
    return found
