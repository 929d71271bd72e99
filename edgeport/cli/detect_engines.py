"""Kernel rates of the engines on this machine: random models are written, run in their own processes, and fitted."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.devices.config_shape import shape_from_config
from edgeport.devices.kernels import DecodeObservation, Fit, Observation, PromptObservation, fit_kernel
from edgeport.devices.work import decode_work, kv_bits_of, prompt_work, stored_weights
from edgeport.errors import EdgeportError, MissingExtra, UsageError
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.bench.kernel_probe import KernelTimes, ProbeSteps
from edgeport.units import format_bytes

if TYPE_CHECKING:
    from edgeport.export.checkpoint import Checkpoint
    from edgeport.export.synthetic import SyntheticShape

FORMATS = {"gguf": "llama.cpp", "onnx": "onnxruntime", "openvino": "openvino"}
"""The containers that are timed, and what profiles call their engines."""
USUAL_BYTES = 100 * 10**6
LARGEST_BYTES = 400 * 10**6
CACHES = 3
"""A model this many times the last-level cache is hardly helped by it."""
MEMORY_SHARE = 12
"""Of free memory: the large model is twice the size, and engines hold it up to three times while they load."""
DISK_COPIES = 5
NANOSECONDS = 1e9
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """What to measure. weights_bytes: of the models. threads: those an engine should use here."""

    weights_bytes: int
    threads: int
    formats: tuple[str, ...] = tuple(FORMATS)
    bits: tuple[int, ...] = (4, 8)
    steps: ProbeSteps = field(default_factory=ProbeSteps)


@dataclass(frozen=True, slots=True)
class Absent:
    """An engine without rates, and why. bits: None when it is the engine altogether."""

    engine: str
    bits: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class EngineRates:
    fits: tuple[Fit, ...]
    absent: tuple[Absent, ...]
    weights_bytes: int


def usual_size(last_level_cache_bytes: int | None, available_bytes: int) -> int:
    """Bytes of the models: out of the cache where memory and time allow it."""
    wanted = min(LARGEST_BYTES, max(USUAL_BYTES, CACHES * (last_level_cache_bytes or 0)))
    return max(1, min(wanted, available_bytes // MEMORY_SHARE))


def probe_engines(probe: EngineProbe, *, progress: Progress = NO_PROGRESS) -> EngineRates:
    """Rates of every engine and precision that can be measured; files are removed, also after an interrupt.

    Raises MissingExtra when no engine is installed or the writers are not, UsageError when the disk is too full.
    """
    usable, absent = _usable(probe.formats)
    observations: dict[tuple[str, int], list[Observation]] = {}
    failed: dict[tuple[str, int], str] = {}
    with tempfile.TemporaryDirectory(prefix="edgeport-kernels-") as folder:
        _require_disk(Path(folder), probe.weights_bytes)
        for bits in probe.bits:
            for shape in _shapes(probe.weights_bytes, bits):
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    todo = [name for name in usable if (name, bits) not in failed]
                    _one_model(shape, bits, Path(place), (probe, todo, progress), observations, failed)
    fits = []
    for (name, bits), items in observations.items():
        if (name, bits) in failed:
            continue
        try:
            fits.append(fit_kernel(items, source=_source(name, probe.threads)))
        except EdgeportError as error:
            failed[name, bits] = error.message
    absent += [Absent(FORMATS[name], bits, reason) for (name, bits), reason in failed.items()]
    return EngineRates(tuple(fits), tuple(absent), probe.weights_bytes)


def _usable(formats: Sequence[str]) -> tuple[list[str], list[Absent]]:
    from edgeport.runtimes.engines import unavailable_because

    reasons = {name: unavailable_because(name) for name in formats}
    usable = [name for name, reason in reasons.items() if reason is None]
    absent = [Absent(FORMATS[name], None, reason) for name, reason in reasons.items() if reason is not None]
    if not usable:
        raise MissingExtra(
            "no engine can be measured here: " + "; ".join(item.reason for item in absent),
            hint="install one engine, or leave --engines out",
        )
    return usable, absent


def _shapes(weights_bytes: int, bits: int) -> tuple[SyntheticShape, ...]:
    try:
        from edgeport.export.synthetic import synthetic_shapes
    except ImportError as error:
        raise MissingExtra(
            f"writing the models that are timed needs {error.name}, which is not installed",
            hint="pip install 'edgeport[export]', or leave --engines out",
        ) from error
    return synthetic_shapes(weights_bytes, bits)


def _one_model(
    shape: SyntheticShape,
    bits: int,
    place: Path,
    asked: tuple[EngineProbe, Sequence[str], Progress],
    observations: dict[tuple[str, int], list[Observation]],
    failed: dict[tuple[str, int], str],
) -> None:
    """One random model in every container; what an engine says no to is written into `failed`."""
    from edgeport.export.synthetic import write_synthetic

    probe, formats, progress = asked
    label = f"INT{bits}, {shape.layers} layers of {shape.hidden_size}"
    (place / "checkpoint").mkdir()
    with progress.stage(f"random model: {label}"):
        checkpoint = write_synthetic(shape, bits, place / "checkpoint")
    for name in formats:
        try:
            with progress.stage(f"{FORMATS[name]}: {label}"):
                times = _times(checkpoint, name, place / name, (probe.threads, _steps(probe, shape)))
        except EdgeportError as error:
            failed[name, bits] = error.message
            continue
        finally:
            shutil.rmtree(place / name, ignore_errors=True)
        items = observations.setdefault((name, bits), [])
        items += _observations(checkpoint, name, bits, times)


def _steps(probe: EngineProbe, shape: SyntheticShape) -> ProbeSteps:
    """The large model is there for its bytes: one prompt is enough of its arithmetic."""
    from edgeport.export.synthetic import LARGE

    return replace(probe.steps, prompts=1) if shape.name == LARGE else probe.steps


def _times(checkpoint: Checkpoint, name: str, folder: Path, how: tuple[int, ProbeSteps]) -> KernelTimes:
    from edgeport.export.synthetic import pack_synthetic
    from edgeport.manifest import from_json, to_json
    from edgeport.runtimes.isolation import run_isolated

    folder.mkdir()
    path = pack_synthetic(checkpoint, name, folder)
    threads, steps = how
    arguments = {"format_name": name, "path": str(path), "steps": to_json(steps), "threads": threads}
    reply = run_isolated(
        "edgeport.runtimes.bench.kernel_probe:measure_kernels", arguments, timeout_s=TIMEOUT_S
    )
    found: KernelTimes = from_json(KernelTimes, reply)
    return found


def _observations(checkpoint: Checkpoint, name: str, bits: int, times: KernelTimes) -> list[Observation]:
    """The median of the repetitions, as in a benchmark: a machine that is shared is as slow when the model runs on it."""
    engine = FORMATS[name]
    model = shape_from_config(checkpoint.spec.config, name="synthetic")
    weights = stored_weights(model, checkpoint.size_bytes(), bits)
    found = []
    for decode in times.decode:
        depth = decode.depth + len(decode.token_ns[0]) // 2
        work = decode_work(model, weights, depth=depth, batch=1, kv_bits=kv_bits_of(engine))
        seconds = statistics.median(map(statistics.median, decode.token_ns)) / NANOSECONDS
        found.append(Observation(engine, bits, decode=DecodeObservation(work, seconds)))
    for prompt in times.prompts:
        task = prompt_work(model, weights, engine, tokens=prompt.tokens, depth=prompt.depth)
        seconds = statistics.median(prompt.samples_ns) / NANOSECONDS
        found.append(Observation(engine, bits, prompt=PromptObservation(task, seconds)))
    return found


def _require_disk(folder: Path, weights_bytes: int) -> None:
    needed, free = DISK_COPIES * weights_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"the models that are timed need {format_bytes(needed)} in {folder.parent}, {format_bytes(free)} are free",
            hint="TMPDIR names another folder",
        )


def _source(name: str, threads: int) -> str:
    from edgeport.runtimes.bench.environment import package_version
    from edgeport.runtimes.bench.machine import DISTRIBUTIONS
    from edgeport.runtimes.engines import ENGINES

    package = ENGINES[name].packages[-1]
    version = package_version(DISTRIBUTIONS.get(package, package)) or "of unknown version"
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    plural = "s" if threads > 1 else ""
    return f"edgeport devices detect --engines, {FORMATS[name]} {version}, {threads} thread{plural}, {day}"
