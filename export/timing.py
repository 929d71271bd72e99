"""What each stage of an export took: seconds and the largest resident size, for the manifest.

The kernel's high-water mark of a process (VmHWM) is reset when a stage begins, so that each stage has its own. Spec:
proc_pid_status(5), proc_pid_clear_refs(5). Where the system has neither, no memory is told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeport.devices.conversion import StageMemory

PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
MEASURED_AS: Mapping[str, str] = {"calibrate": "statistics", "learn": "quantize"}
"""Stages of an estimate that the clock knows under another name; several stages of one kind are `pack gguf`, `pack onnx`."""


@dataclass(slots=True)
class Clock:
    """seconds, peak_bytes: by stage; a stage that runs twice adds up its seconds and keeps its larger peak."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    _running: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        self._keep_peak()
        self._running.append(stage)
        try:
            yield
        finally:
            self._keep_peak()
            self._running.remove(stage)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - started, 3)

    def _keep_peak(self) -> None:
        """The high-water mark so far belongs to every running stage; the next one begins anew."""
        peak = _high_water_bytes()
        if peak is None:
            return
        for stage in self._running:
            self.peak_bytes[stage] = max(peak, self.peak_bytes.get(stage, 0))
        with suppress(OSError):  # where it is forbidden, a stage's figure includes the stages before it
            (PROCESS / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def compare_memory(predicted: Sequence[StageMemory], clock: Clock) -> list[dict[str, Any]]:
    """Predicted and measured peak of every stage that was both; the stages of a finished export that were resumed were not."""
    rows = []
    for stage in predicted:
        name = MEASURED_AS.get(stage.stage, stage.stage)
        peaks = [
            peak
            for measured, peak in clock.peak_bytes.items()
            if measured == name or measured.startswith(f"{name} ")
        ]
        if peaks:
            rows.append(
                {"stage": stage.stage, "predicted_bytes": stage.resident_bytes, "measured_bytes": max(peaks)}
            )
    return rows


def _high_water_bytes() -> int | None:
    try:
        text = (PROCESS / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
