"""One container measured: each figure in a process of its own, then put together as the manifest keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeport.devices.profile import DeviceProfile
from edgeport.manifest import ContainerEntry, Manifest, base_format, from_json, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.child import MemoryRun, SpeedSamples, settings_environment
from edgeport.runtimes.bench.container_roofline import container_roofline
from edgeport.runtimes.bench.energy import POWERCAP, Energy, find_zones
from edgeport.runtimes.bench.machine import Machine, engine_version
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.prediction import predict
from edgeport.runtimes.bench.roofline import Roofline, mean_cache_entries
from edgeport.runtimes.bench.speed import BenchLine, Speed, bench_line, latency, rate
from edgeport.runtimes.bench.statistics import median
from edgeport.runtimes.bench.subject import is_foreign
from edgeport.runtimes.container import Container
from edgeport.runtimes.emulate import Emulation
from edgeport.runtimes.engine_settings import DEFAULT_SETTINGS, EngineSettings
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.tuning.store import tuned_settings
from edgeport.units import format_count

TIMEOUT_S = 3600.0
STEADY_TOKENS = 32
"""Decoded in the memory run: enough for the buffers of decoding to be there."""
_CHILD = "edgeport.runtimes.bench.child"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is the same for every container of one run. memory: also the memory run, the cold load and energy.

    profile: whose rates predict, None for no prediction. emulation: limits the engines' processes. threads: what was asked for.
    tuned: with the settings `edgeport tune` found.
    """

    directory: Path
    manifest: Manifest
    workload: Workload
    machine: Machine
    context_length: int
    memory: bool
    profile: DeviceProfile | None = None
    emulation: Emulation | None = None
    threads: int | None = None
    tuned: bool = False

    def settings(self, entry: ContainerEntry) -> EngineSettings:
        # without a manifest of its own, a model is known by its files, as `edgeport tune` knows it
        manifest = None if is_foreign(self.manifest) else self.manifest
        container = Container(entry.format, self.directory / entry.entry_point, manifest)
        return (tuned_settings(container) if self.tuned else None) or DEFAULT_SETTINGS

    def threads_of(self, entry: ContainerEntry) -> int:
        """Asked for, else tuned, else the machine's."""
        return self.threads or self.settings(entry).threads or self.machine.threads


@dataclass(frozen=True, slots=True)
class _Beside:
    """What is measured apart from speed."""

    memory: MemoryRun | None = None
    load_cold_ns: int | None = None
    energy: Energy | None = None


def measure_container(
    entry: ContainerEntry, plan: BenchPlan, progress: Progress
) -> tuple[Speed, list[BenchLine]]:
    """Raises RuntimeFailure when the engine fails on its file, DoesNotFit at an emulated limit."""
    # a limited control group would be charged with the files' pages
    files = [str(plan.directory / item.path) for item in entry.files] if plan.emulation is None else []
    with progress.stage(f"{entry.format}: speed"):
        reply = _in_child("measure_speed", entry, plan, {"workload": to_json(plan.workload), "files": files})
    samples: SpeedSamples = from_json(SpeedSamples, reply)
    beside = _measure_beside(entry, plan, progress) if plan.memory else _Beside()
    speed = _speed(entry, plan, samples, beside)
    tests = [test for test in (samples.prompt, samples.generation) if test is not None]
    model = model_columns(plan.manifest, entry)
    return speed, [bench_line(speed, test, model_filename=entry.entry_point, model=model) for test in tests]


def model_columns(manifest: Manifest, entry: ContainerEntry) -> tuple[str, int, int]:
    """llama-bench's label, bytes and parameters: `qwen2 494M int4`."""
    scheme = manifest.recipe.get("name") or f"{manifest.model.bits_per_weight:.2g} bit"
    label = f"{manifest.model.family} {format_count(manifest.model.parameters)} {scheme}"
    return label, entry.size_bytes, manifest.model.parameters


def _measure_beside(entry: ContainerEntry, plan: BenchPlan, progress: Progress) -> _Beside:
    with progress.stage(f"{entry.format}: memory"):
        asked = {
            "tokens": (plan.workload.n_prompt, min(STEADY_TOKENS, plan.workload.n_gen)),
            "watch": plan.emulation is None,
        }
        memory = from_json(MemoryRun, _in_child("measure_memory_over_time", entry, plan, asked))
    if plan.emulation is not None:  # the disk and the counters are this machine's
        return _Beside(memory)
    with progress.stage(f"{entry.format}: cold load"):
        files = [str(plan.directory / item.path) for item in entry.files]
        cold = _in_child("measure_cold_load", entry, plan, {"files": files})
    return _Beside(memory, cold, _measure_energy(entry, plan, progress))


def _measure_energy(entry: ContainerEntry, plan: BenchPlan, progress: Progress) -> Energy:
    zones = find_zones(POWERCAP)
    if isinstance(zones, str):
        return Energy(unavailable=zones)
    with progress.stage(f"{entry.format}: energy"):
        reply = _in_child("measure_energy", entry, plan, {"workload": to_json(plan.workload)})
    found: Energy = from_json(Energy, reply)
    return found


def _in_child(function: str, entry: ContainerEntry, plan: BenchPlan, more: Mapping[str, Any]) -> Any:
    shared = {
        "format_name": entry.format,
        "path": str(plan.directory / entry.entry_point),
        "threads": plan.threads_of(entry),
        "context_length": plan.context_length,
    }
    return run_isolated(
        f"{_CHILD}:{function}",
        {**shared, **more},
        timeout_s=TIMEOUT_S,
        environment=settings_environment(plan.settings(entry)),
        confinement=plan.emulation.confinement if plan.emulation else None,
    )


def _speed(entry: ContainerEntry, plan: BenchPlan, samples: SpeedSamples, beside: _Beside) -> Speed:
    prompt, generation = samples.prompt, samples.generation
    decode = rate(generation) if generation is not None else None
    predicted = None
    if plan.profile is not None and not is_foreign(plan.manifest):
        predicted = predict(plan.directory, entry.format, plan.workload, plan.context_length, plan.profile)
    return Speed(
        format=entry.format,
        engine=ENGINES[base_format(entry.format)].name,
        engine_version=engine_version(entry.format),
        weights_id=entry.weights_id,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        threads=plan.threads_of(entry),
        settings=plan.settings(entry).chosen(),
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
        memory=beside.memory.use if beside.memory is not None else None,
        roofline=_roofline(entry, plan, decode.tokens_per_s) if decode is not None else None,
        environment=plan.machine.environment,
        load_cold_ms=beside.load_cold_ns / 1e6 if beside.load_cold_ns is not None else None,
        memory_timeline=beside.memory.timeline if beside.memory is not None else (),
        energy=beside.energy,
        predicted=predicted,
    )


def _roofline(entry: ContainerEntry, plan: BenchPlan, tokens_per_s: float) -> Roofline:
    depth = mean_cache_entries(plan.workload.n_gen, plan.workload.n_depth)
    kv_bytes = plan.manifest.model.kv_bytes_per_token * depth
    return container_roofline(
        entry.format, plan.directory / entry.entry_point, kv_bytes, tokens_per_s, plan.machine
    )
