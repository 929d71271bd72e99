"""Deployment checks: is the export faster and smaller than 16 bits in the same engine, and does it last?

Opt-in, since it builds and times a second set of containers. Both are run in turns, so that a slow minute of a shared
machine falls on both. Where the 16-bit weights fit the processor's cache, speed says nothing about memory and is not judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeport.errors import EdgeportError
from edgeport.export.gate.lines import GateLine, at_least, at_most, not_judged, percent
from edgeport.export.gate.thresholds import Thresholds
from edgeport.manifest import base_format, from_json, read_manifest, to_json
from edgeport.progress import Progress
from edgeport.runtimes.bench.child import SpeedSamples
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.memory import MemoryUse
from edgeport.runtimes.isolation import run_isolated
from edgeport.units import format_bytes

ROUNDS = 5
WORKLOAD = Workload(n_prompt=128, n_gen=64, repetitions=1)
LONG_RUN_TOKENS = 1024
TIMEOUT_S = 3600.0


def deployment_lines(
    directory: Path, sixteen: Mapping[str, Path], limits: Thresholds, *, threads: int, progress: Progress
) -> list[GateLine]:
    """Speed, memory and stability of each container of the artifact that has a 16-bit sibling."""
    manifest = read_manifest(directory)
    cache_bytes = capture(["edgeport"]).last_level_cache_bytes
    lines: list[GateLine] = []
    for entry in manifest.containers:
        base = base_format(entry.format)
        other = sixteen.get(base)
        if other is None:
            lines.append(
                not_judged((entry.format, "deployment"), "the numpy reference makes no claim to speed")
            )
            continue
        pair = _Pair(
            entry.format, (directory / entry.entry_point, other), base, manifest.model.context_length
        )
        with progress.stage(f"deployment {entry.format}"):
            lines += pair.lines(limits, threads, cache_bytes)
    return lines


class _Pair:
    """One container and its 16-bit sibling: (container, sibling) everywhere."""

    def __init__(self, name: str, paths: tuple[Path, Path], base: str, context_length: int) -> None:
        self._name = name
        self._paths = paths
        self._base = base
        self._context = min(LONG_RUN_TOKENS, context_length)

    def lines(self, limits: Thresholds, threads: int, cache_bytes: int | None) -> list[GateLine]:
        found: list[GateLine] = []
        checks: dict[str, Callable[[], GateLine]] = {
            "speed": lambda: self._speed(limits, threads, cache_bytes),
            "memory saved": lambda: self._memory(limits, threads),
            "long run": lambda: self._stability(limits, threads),
        }
        for name, check in checks.items():
            try:
                found.append(check())
            except EdgeportError as error:
                line = GateLine(
                    self._name, name, None, None, "fail", "no result", "", error.message, mendable=False
                )
                found.append(line)
        return found

    def _speed(self, limits: Thresholds, threads: int, cache_bytes: int | None) -> GateLine:
        """Decoded tokens per second, the median of rounds in which both run once."""
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for path, measured in zip(self._paths, rates, strict=True):
                measured.append(self._decode_rate(path, threads))
        got, base = (statistics.median(measured) for measured in rates)
        sizes = [_folder_bytes(path) for path in self._paths]
        detail = f"{got:.1f} tokens/s, 16 bits {base:.1f}, medians of {ROUNDS} rounds in turns"
        where = (self._name, "speed")
        if cache_bytes is not None and sizes[1] <= cache_bytes:
            reason = (
                f"{got / base:.2f}x ({detail}): the 16-bit weights ({format_bytes(sizes[1])}) fit the cache "
            )
            return not_judged(
                where, reason + f"of {format_bytes(cache_bytes)}, where fewer bits save no time"
            )
        return _unmendable(at_least(where, got / base, limits.speed_ratio, _times, detail))

    def _decode_rate(self, path: Path, threads: int) -> float:
        reply = run_isolated(
            "edgeport.runtimes.bench.child:measure_speed",
            {**self._shared(path, threads), "workload": to_json(WORKLOAD)},
            timeout_s=TIMEOUT_S,
        )
        samples: SpeedSamples = from_json(SpeedSamples, reply)
        assert samples.generation is not None
        return statistics.median(samples.generation.samples_ts)

    def _memory(self, limits: Thresholds, threads: int) -> GateLine:
        """The files' bytes are judged: they are exact. What the processes took is told beside them."""
        sizes = [_folder_bytes(path) for path in self._paths]
        resident = [self._resident_bytes(path, threads) for path in self._paths]
        detail = (
            f"{format_bytes(sizes[0])}, 16 bits {format_bytes(sizes[1])} on disk; the process with its engine "
            f"{format_bytes(resident[0])}, 16 bits {format_bytes(resident[1])}"
        )
        saving = 1 - sizes[0] / sizes[1]
        return _unmendable(
            at_least((self._name, "memory saved"), saving, limits.memory_saving, percent, detail)
        )

    def _resident_bytes(self, path: Path, threads: int) -> int:
        reply = run_isolated(
            "edgeport.runtimes.bench.child:measure_memory",
            {**self._shared(path, threads), "n_prompt": WORKLOAD.n_prompt},
            timeout_s=TIMEOUT_S,
        )
        use: MemoryUse = from_json(MemoryUse, reply)
        return use.after_prompt.resident_bytes or 0

    def _stability(self, limits: Thresholds, threads: int) -> GateLine:
        reply: dict[str, Any] = run_isolated(
            "edgeport.export.gate.long_run:long_run",
            {**self._shared(self._paths[0], threads), "context_length": self._context},
            timeout_s=TIMEOUT_S,
        )
        detail = (
            f"{reply['tokens']} tokens, twice to the end of the cache, {format_bytes(reply['grown_bytes'])} more memory than "
            "at the start"
        )
        if not reply["finite"]:
            return GateLine(
                self._name, "long run", None, None, "fail", "not finite", "", detail, mendable=False
            )
        return _unmendable(
            at_most((self._name, "long run"), reply["drift"], limits.latency_drift, _times, detail)
        )

    def _shared(self, path: Path, threads: int) -> dict[str, Any]:
        context = min(WORKLOAD.context_length, self._context)
        return {"format_name": self._base, "path": str(path), "threads": threads, "context_length": context}


def _folder_bytes(entry_point: Path) -> int:
    return sum(path.stat().st_size for path in entry_point.parent.rglob("*") if path.is_file())


def _unmendable(line: GateLine) -> GateLine:
    """More bits make nothing faster or smaller."""
    return replace(line, mendable=False)


def _times(value: float) -> str:
    return f"{value:.2f}x"
