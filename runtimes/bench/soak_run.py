"""A soak of one container: one process generates text for as long as was asked, and is judged when it ends.

It ends when the time is over, when the engine fails, or at Ctrl-C; whatever was seen until then is judged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeport.errors import EdgeportError, UsageError
from edgeport.manifest import ContainerEntry, base_format, from_json, read_manifest, to_json
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.environment import Environment, capture
from edgeport.runtimes.bench.live_child import LiveChild
from edgeport.runtimes.bench.machine import engine_distribution, engine_version
from edgeport.runtimes.bench.run import replace_manifest
from edgeport.runtimes.bench.selection import choose_containers
from edgeport.runtimes.bench.soak_judge import SoakJudgement, SoakLimits, judge
from edgeport.runtimes.bench.soak_loop import SoakPass
from edgeport.runtimes.bench.subject import open_subject
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.threads import thread_count

TARGET = "edgeport.runtimes.bench.soak_loop:passes"
MOST_MOMENTS = 200
SILENT_S = 600.0
"""A pass that takes longer is a fault."""


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """seconds: how long. format: None takes the first container that can be timed here. target: what runs in the child, a generator
    of SoakPass as JSON; tests name a faulty one."""

    seconds: float
    format: str | None = None
    n_prompt: int = 128
    n_gen: int = 64
    threads: int | None = None
    limits: SoakLimits = SoakLimits()
    target: str = TARGET

    def __post_init__(self) -> None:
        if self.n_prompt < 1 or self.n_gen < 2:
            raise UsageError(
                f"a soak reads a prompt and writes two tokens at least, not {self.n_prompt} and {self.n_gen}"
            )


@dataclass(frozen=True, slots=True)
class SoakMoment:
    """Some of the passes, for a plot."""

    seconds: float
    resident_bytes: int | None
    anonymous_bytes: int | None
    p50_ms: float


@dataclass(frozen=True, slots=True)
class SoakReport:
    """`Manifest.soak[format]`. seconds: what was seen of asked_seconds. fault: how the engine's process ended before its time."""

    format: str
    engine: str
    engine_version: str | None
    weights_id: str
    measured_at: str
    asked_seconds: float
    seconds: float
    passes: int
    tokens: int
    n_prompt: int
    n_gen: int
    threads: int
    interrupted: bool
    fault: str | None
    limits: SoakLimits
    judgement: SoakJudgement
    moments: tuple[SoakMoment, ...]
    environment: Environment


def run_soak(directory: Path, options: SoakOptions, *, progress: Progress = NO_PROGRESS) -> SoakReport:
    """Raises ArtifactError for a format the artifact lacks, MissingExtra without its engine, UsageError for too long a prompt."""
    subject = open_subject(directory)
    manifest = subject.manifest
    entry = choose_containers(manifest, [options.format] if options.format else None)[0][0]
    if options.n_prompt + options.n_gen > manifest.model.context_length:
        raise UsageError(
            f"{options.n_prompt} + {options.n_gen} tokens do not fit the model's context of {manifest.model.context_length}",
            hint="use a smaller -p or -n",
        )
    measured_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    environment = capture(["edgeport", engine_distribution(entry.format)])
    threads = thread_count(options.threads)
    passes, fault, interrupted = _watch(subject.directory, entry, options, threads=threads, progress=progress)
    return SoakReport(
        format=entry.format,
        engine=ENGINES[base_format(entry.format)].name,
        engine_version=engine_version(entry.format),
        weights_id=entry.weights_id,
        measured_at=measured_at,
        asked_seconds=options.seconds,
        seconds=passes[-1].seconds if passes else 0.0,
        passes=len(passes),
        tokens=sum(len(item.tokens) for item in passes),
        n_prompt=options.n_prompt,
        n_gen=options.n_gen,
        threads=threads,
        interrupted=interrupted,
        fault=fault,
        limits=options.limits,
        judgement=judge(passes, options.limits, fault=fault),
        moments=_moments(passes),
        environment=environment,
    )


def record_soak(directory: Path, report: SoakReport) -> Path:
    """Write it into the manifest, over that of the same format. A model of another origin has none."""
    manifest = read_manifest(directory)
    soak = {**manifest.soak, report.format: to_json(report)}
    return replace_manifest(dataclasses.replace(manifest, soak=soak), directory)


def _watch(
    directory: Path, entry: ContainerEntry, options: SoakOptions, *, threads: int, progress: Progress
) -> tuple[list[SoakPass], str | None, bool]:
    """The passes, how the engine failed, and whether somebody pressed Ctrl-C."""
    arguments: dict[str, Any] = {
        "format_name": entry.format,
        "path": str(directory / entry.entry_point),
        "n_prompt": options.n_prompt,
        "n_gen": options.n_gen,
        "threads": threads,
    }
    passes: list[SoakPass] = []
    answers: dict[tuple[int, ...], tuple[int, ...]] = {}
    try:
        with (
            LiveChild(options.target, arguments, timeout_s=SILENT_S) as child,
            progress.stage(f"soak {entry.format}, seconds", total=options.seconds) as stage,
        ):
            while not passes or passes[-1].seconds < options.seconds:
                reply = child.next()
                if child.is_finished:
                    break
                item: SoakPass = from_json(SoakPass, reply)
                # equal answers are kept once: a day has a great many of them
                passes.append(dataclasses.replace(item, tokens=answers.setdefault(item.tokens, item.tokens)))
                stage.advance(round(passes[-1].seconds) - stage.done)
    except KeyboardInterrupt:
        return passes, None, True
    except EdgeportError as error:
        return passes, error.message, False
    return passes, None, False


def _moments(passes: list[SoakPass]) -> tuple[SoakMoment, ...]:
    step = max(1, -(-len(passes) // MOST_MOMENTS))
    return tuple(
        SoakMoment(round(item.seconds, 3), item.resident_bytes, item.anonymous_bytes, item.p50_ms)
        for item in passes[::step]
    )
