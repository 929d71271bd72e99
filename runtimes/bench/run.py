"""Benchmark an artifact folder: every container whose engine is installed, one after the other, each in its own process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from edgeport.devices.profile import DeviceProfile
from edgeport.errors import ArtifactError, DoesNotFit, EdgeportError
from edgeport.manifest import (
    ContainerEntry,
    DraftEntry,
    Manifest,
    read_manifest,
    to_json,
    write_manifest,
)
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.container_run import BenchPlan, measure_container
from edgeport.runtimes.bench.environment import Environment
from edgeport.runtimes.bench.machine import read_machine
from edgeport.runtimes.bench.measure import Workload, fit_workload
from edgeport.runtimes.bench.prediction import machine_profile
from edgeport.runtimes.bench.scaled import EmulationReport, emulation_report
from edgeport.runtimes.bench.selection import Skipped, choose_containers
from edgeport.runtimes.bench.speed import BenchLine, Speed
from edgeport.runtimes.bench.subject import open_subject
from edgeport.runtimes.emulate import Emulation


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """formats: None means every container that can be timed here. threads: None means the physical cores.

    memory: also the memory run, the cold load and energy. emulation: limits the engines' processes; `device` is whose limits
    these are, and what rates are scaled to. profile: whose rates predict; None takes a saved one of this machine, or its
    measured bandwidth. tuned: with what `edgeport tune` found for this machine; never where another one is emulated.
    """

    workload: Workload = field(default_factory=Workload)
    formats: tuple[str, ...] | None = None
    threads: int | None = None
    memory: bool = True
    emulation: Emulation | None = None
    device: DeviceProfile | None = None
    profile: DeviceProfile | None = None
    tuned: bool = True


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


def benchmark(
    directory: Path, options: BenchOptions | None = None, *, progress: Progress = NO_PROGRESS
) -> BenchReport:
    """Measure an artifact, or a model file or folder of any origin; nothing is written.

    Raises ArtifactError for a format it lacks, UsageError for what is no model, MissingExtra without engines.
    """
    options = options or BenchOptions()
    subject = open_subject(Path(directory))
    manifest = subject.manifest
    entries, skipped = choose_containers(manifest, options.formats)
    fit_workload(options.workload, manifest.model.context_length)  # refuse before the first model is loaded
    plan = _plan(subject.directory, manifest, options, entries, progress=progress)
    containers: list[Speed] = []
    results: list[BenchLine] = []
    failed: list[Skipped] = []
    does_not_fit: list[Skipped] = []
    for entry in entries:
        try:
            speed, lines = measure_container(entry, plan, progress)
        except DoesNotFit as error:
            does_not_fit.append(Skipped(entry.format, error.message))
            continue
        except EdgeportError as error:
            failed.append(Skipped(entry.format, error.message))
            continue
        containers.append(speed)
        results.extend(lines)
    bandwidth = plan.machine.bandwidth_bytes_per_s
    emulated = None
    if options.emulation is not None:
        emulated = emulation_report(options.emulation, options.device, manifest, containers, bandwidth)
    return BenchReport(
        artifact=manifest.name,
        bandwidth_bytes_per_s=bandwidth,
        environment=plan.machine.environment,
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
    return replace_manifest(dataclasses.replace(manifest, speed=speed), directory)


def replace_manifest(manifest: Manifest, directory: Path) -> Path:
    """Raises ArtifactError where the folder cannot be written."""
    try:
        return write_manifest(manifest, directory)
    except OSError as error:
        raise ArtifactError(
            f"the figures cannot be written into {directory}: {error.strerror}",
            hint="they were measured all the same, and stand above",
        ) from error


def _plan(
    directory: Path,
    manifest: Manifest,
    options: BenchOptions,
    entries: list[ContainerEntry],
    *,
    progress: Progress,
) -> BenchPlan:
    machine = read_machine(
        [entry.format for entry in entries], options.threads, emulation=options.emulation, progress=progress
    )
    profile = options.profile
    if profile is None and options.emulation is None:
        profile = machine_profile(machine.threads, machine.bandwidth_bytes_per_s)
    return BenchPlan(
        directory=directory,
        manifest=manifest,
        workload=options.workload,
        machine=machine,
        context_length=min(options.workload.context_length, manifest.model.context_length),
        memory=options.memory,
        profile=profile,
        emulation=options.emulation,
        threads=options.threads,
        tuned=options.tuned and options.emulation is None,
    )
