"""The machine a benchmark runs on, captured once for all its containers: environment, threads, read bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.devices.bandwidth import measure_memory_bandwidth
from edgeport.errors import EdgeportError
from edgeport.manifest import base_format
from edgeport.progress import Progress
from edgeport.runtimes.bench.environment import Environment, capture, package_version
from edgeport.runtimes.emulate import Emulation
from edgeport.runtimes.engines import ENGINES
from edgeport.runtimes.threads import thread_count

DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "numpy": "edgeport"}
"""Where the name to install differs from the name to import; the engine written in numpy is edgeport's own."""
BANDWIDTH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """bandwidth_bytes_per_s: with the threads the engines get; None where it cannot be measured, which the roofline then says."""

    environment: Environment
    threads: int
    bandwidth_bytes_per_s: float | None


def read_machine(
    formats: Sequence[str],
    threads: int | None,
    *,
    emulation: Emulation | None = None,
    progress: Progress,
) -> Machine:
    """Measure the bandwidth, about a second, and note the versions of the engines of these formats."""
    environment = capture(["edgeport", *(dict.fromkeys(engine_distribution(name) for name in formats))])
    count = thread_count(threads)
    if emulation is not None:
        count = min(count, len(emulation.cpus))
    with progress.stage("memory bandwidth"):
        return Machine(environment, count, read_bandwidth(count, environment))


def read_bandwidth(threads: int, environment: Environment) -> float | None:
    """Bytes per second `threads` threads read, None where it cannot be measured."""
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


def engine_distribution(format_name: str) -> str:
    """What is installed to open a format: `llama-cpp-python`."""
    package = ENGINES[base_format(format_name)].packages[-1]
    return DISTRIBUTIONS.get(package, package)


def engine_version(format_name: str) -> str | None:
    return package_version(engine_distribution(format_name))
