"""Benchmark an artifact folder: every container whose engine is installed, one after the other, each in its own process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edgeport.devices.bandwidth import measure_memory_bandwidth
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import ArtifactError, DoesNotFit, EdgeportError, MissingExtra
from edgeport.manifest import (
    ContainerEntry,
    DraftEntry,
    Manifest,
    base_format,
    from_json,
    read_manifest,
    to_json,
    write_manifest,
)
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.child import SpeedSamples
from edgeport.runtimes.bench.environment import Environment, capture, package_version
from edgeport.runtimes.bench.measure import Workload, fit_workload
from edgeport.runtimes.bench.memory import MemoryUse
from edgeport.runtimes.bench.roofline import Roofline, mean_cache_entries, roofline
from edgeport.runtimes.bench.scaled import EmulationReport, emulation_report
from edgeport.runtimes.bench.speed import BenchLine, Speed, bench_line, latency, rate
from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.bench.weights import bytes_read_per_token, read_tensors
from edgeport.runtimes.emulate import Emulation
from edgeport.runtimes.engines import ENGINES, unavailable_because
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.threads import thread_count
from edgeport.units import format_count

DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "numpy": "edgeport"}
"""Where the name to install differs from the name to import; the engine written in numpy is edgeport's own."""
UNTIMED = {
    "safetensors": "the numpy reference is there to be exact; no speed is claimed for it",
    "bitsandbytes": "torch opens it, which no device needs",
}
"""Left out unless asked for by name."""
BANDWIDTH_SECONDS = 1.0
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """formats: None means every container that can be timed here. threads: None means the physical cores.

    emulation: limits the engines' processes; `device` is whose limits these are, and what rates are scaled to.
    """

    workload: Workload = field(default_factory=Workload)
    formats: tuple[str, ...] | None = None
    threads: int | None = None
    memory: bool = True
    emulation: Emulation | None = None
    device: DeviceProfile | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    format: str
    reason: str


@dataclass(frozen=True, slots=True)
class BenchReport:
    """results: llama-bench's JSON, one entry per test. skipped: not tried. failed: tried, and the engine said no.

    does_not_fit: killed at the memory limit that was emulated.
    """

    artifact: str
    bandwidth_bytes_per_s: float | None
    environment: Environment
    containers: tuple[Speed, ...]
    results: tuple[BenchLine, ...]
    skipped: tuple[Skipped, ...]
    failed: tuple[Skipped, ...]
    draft: DraftEntry | None = None
    """The artifact's draft; the figures are without it, because what it brings depends on the text."""
    does_not_fit: tuple[Skipped, ...] = ()
    emulation: EmulationReport | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is the same for every container of one run."""

    directory: Path
    manifest: Manifest
    workload: Workload
    threads: int
    context_length: int
    bandwidth_bytes_per_s: float | None
    environment: Environment
    memory: bool
    emulation: Emulation | None


def benchmark(
    directory: Path, options: BenchOptions | None = None, *, progress: Progress = NO_PROGRESS
) -> BenchReport:
    """Measure; nothing is written. Raises ArtifactError for a format the artifact lacks, MissingExtra without engines."""
    options = options or BenchOptions()
    manifest = read_manifest(directory)
    entries, skipped = choose_containers(manifest, options.formats)
    plan = _plan(Path(directory), manifest, options, entries, progress=progress)
    containers: list[Speed] = []
    results: list[BenchLine] = []
    failed: list[Skipped] = []
    does_not_fit: list[Skipped] = []
    for entry in entries:
        try:
            speed, lines = _measure(entry, plan, progress)
        except DoesNotFit as error:
            does_not_fit.append(Skipped(entry.format, error.message))
            continue
        except EdgeportError as error:
            failed.append(Skipped(entry.format, error.message))
            continue
        containers.append(speed)
        results.extend(lines)
    emulated = None
    if options.emulation is not None:
        emulated = emulation_report(
            options.emulation, options.device, manifest, containers, plan.bandwidth_bytes_per_s
        )
    return BenchReport(
        artifact=manifest.name,
        bandwidth_bytes_per_s=plan.bandwidth_bytes_per_s,
        environment=plan.environment,
        containers=tuple(containers),
        results=tuple(results),
        skipped=tuple(skipped),
        failed=tuple(failed),
        draft=manifest.draft,
        does_not_fit=tuple(does_not_fit),
        emulation=emulated,
    )


def record(directory: Path, report: BenchReport) -> Path:
    """Write the speeds into the manifest, over those of the same formats; it is read again, so that others' parts stay."""
    manifest = read_manifest(directory)
    speed = {**manifest.speed, **{item.format: to_json(item) for item in report.containers}}
    try:
        return write_manifest(dataclasses.replace(manifest, speed=speed), directory)
    except OSError as error:
        raise ArtifactError(
            f"the speeds cannot be written into {directory}: {error.strerror}",
            hint="the figures above were measured all the same",
        ) from error


def choose_containers(
    manifest: Manifest, formats: Sequence[str] | None
) -> tuple[list[ContainerEntry], list[Skipped]]:
    """Those to measure, and those left out with the reason. What is asked for by name must be possible."""
    if formats:
        entries = [manifest.container(name) for name in dict.fromkeys(formats)]
        reasons = {entry.format: unavailable_because(entry.format) for entry in entries}
        missing = [reason for reason in reasons.values() if reason]
        if missing:
            raise MissingExtra("; ".join(missing))
        return entries, []
    chosen, skipped = [], []
    for entry in manifest.containers:
        reason = UNTIMED.get(base_format(entry.format)) or unavailable_because(entry.format)
        if reason is None:
            chosen.append(entry)
        else:
            skipped.append(Skipped(entry.format, reason))
    if not chosen:
        reasons_text = (
            "; ".join(f"{item.format}: {item.reason}" for item in skipped) or "it holds no containers"
        )
        raise MissingExtra(
            f"nothing of '{manifest.name}' can be timed here: {reasons_text}",
            hint="install an engine, or name a container with --format",
        )
    return chosen, skipped


def _plan(
    directory: Path,
    manifest: Manifest,
    options: BenchOptions,
    entries: Sequence[ContainerEntry],
    *,
    progress: Progress,
) -> _Plan:
    engines = [ENGINES[base_format(entry.format)].packages[-1] for entry in entries]
    environment = capture(["edgeport", *(DISTRIBUTIONS.get(name, name) for name in engines)])
    threads = thread_count(options.threads)
    if options.emulation is not None:
        threads = min(threads, len(options.emulation.cpus))
    fit_workload(options.workload, manifest.model.context_length)  # refuse before the first model is loaded
    with progress.stage("memory bandwidth"):
        bandwidth = _bandwidth(threads, environment)
    return _Plan(
        directory=directory,
        manifest=manifest,
        workload=options.workload,
        threads=threads,
        context_length=min(options.workload.context_length, manifest.model.context_length),
        bandwidth_bytes_per_s=bandwidth,
        environment=environment,
        memory=options.memory,
        emulation=options.emulation,
    )


def _bandwidth(threads: int, environment: Environment) -> float | None:
    """With the threads the engines get; None where it cannot be measured, which the roofline then says."""
    try:
        measured = measure_memory_bandwidth(
            threads,
            seconds=BANDWIDTH_SECONDS,
            last_level_cache_bytes=environment.last_level_cache_bytes or 0,
            available_bytes=environment.available_bytes,
        )
    except EdgeportError:
        return None
    return float(measured.read_bytes_per_s)


def _measure(entry: ContainerEntry, plan: _Plan, progress: Progress) -> tuple[Speed, list[BenchLine]]:
    path = str(plan.directory / entry.entry_point)
    shared = {
        "format_name": entry.format,
        "path": path,
        "threads": plan.threads,
        "context_length": plan.context_length,
    }
    confinement = plan.emulation.confinement if plan.emulation else None
    with progress.stage(f"{entry.format}: speed"):
        reply = run_isolated(
            "edgeport.runtimes.bench.child:measure_speed",
            {**shared, "workload": to_json(plan.workload)},
            timeout_s=TIMEOUT_S,
            confinement=confinement,
        )
    samples: SpeedSamples = from_json(SpeedSamples, reply)
    memory = None
    if plan.memory:
        with progress.stage(f"{entry.format}: memory"):
            weighed = run_isolated(
                "edgeport.runtimes.bench.child:measure_memory",
                {**shared, "n_prompt": plan.workload.n_prompt},
                timeout_s=TIMEOUT_S,
                confinement=confinement,
            )
        memory = from_json(MemoryUse, weighed)
    speed = _speed(entry, plan, samples, memory)
    facts = plan.manifest.model
    model = (model_type(plan.manifest), entry.size_bytes, facts.parameters)
    tests = [test for test in (samples.prompt, samples.generation) if test is not None]
    return speed, [bench_line(speed, test, model_filename=entry.entry_point, model=model) for test in tests]


def _speed(entry: ContainerEntry, plan: _Plan, samples: SpeedSamples, memory: MemoryUse | None) -> Speed:
    prompt, generation = samples.prompt, samples.generation
    package = ENGINES[base_format(entry.format)].packages[-1]
    decode = rate(generation) if generation is not None else None
    return Speed(
        format=entry.format,
        engine=ENGINES[base_format(entry.format)].name,
        engine_version=package_version(DISTRIBUTIONS.get(package, package)),
        weights_id=entry.weights_id,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        threads=plan.threads,
        context_length=plan.context_length,
        n_prompt=prompt.n_prompt if prompt is not None else 0,
        n_gen=generation.n_gen if generation is not None else 0,
        n_depth=plan.workload.n_depth,
        repetitions=plan.workload.repetitions,
        seed=plan.workload.seed,
        load_ms=samples.load_ns / 1e6,
        ttft_cold_ms=samples.ttft_cold_ns / 1e6 if samples.ttft_cold_ns is not None else None,
        ttft_warm_ms=median(prompt.ttft_ns) / 1e6 if prompt is not None else None,
        prefill=rate(prompt) if prompt is not None else None,
        decode=decode,
        inter_token=latency(generation) if generation is not None else None,
        memory=memory,
        roofline=_roofline(entry, plan, decode.tokens_per_s) if decode is not None else None,
        environment=plan.environment,
    )


def _roofline(entry: ContainerEntry, plan: _Plan, tokens_per_s: float) -> Roofline:
    tensors = read_tensors(base_format(entry.format), plan.directory / entry.entry_point)
    depth = mean_cache_entries(plan.workload.n_gen, plan.workload.n_depth)
    return roofline(
        bytes_read_per_token(tensors),
        plan.manifest.model.kv_bytes_per_token * depth,
        tokens_per_s,
        bandwidth_bytes_per_s=plan.bandwidth_bytes_per_s,
        cache_bytes=plan.environment.last_level_cache_bytes,
    )


def model_type(manifest: Manifest) -> str:
    """llama-bench's label: `qwen2 494M int4`."""
    scheme = manifest.recipe.get("name") or f"{manifest.model.bits_per_weight:.2g} bit"
    return f"{manifest.model.family} {format_count(manifest.model.parameters)} {scheme}"
