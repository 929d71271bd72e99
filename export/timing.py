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

from edgeport.devices.conversion import PROCESS_BYTES, StageMemory

PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
MEASURED_AS: Mapping[str, str] = {"calibrate": "statistics", "learn": "quantize"}
"""Stages of an estimate that the clock knows under another name; several stages of one kind are `pack gguf`, `pack onnx`."""


@dataclass(slots=True)
class Clock:
    """seconds, peak_bytes, held_bytes: by stage; a stage that runs twice adds up its seconds and keeps its larger peak.
    held_bytes: what the process held when the stage began, which earlier stages left there."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    held_bytes: dict[str, int] = field(default_factory=dict)
    _running: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        self._keep_peak()
        self._running.append(stage)
        self.held_bytes[stage] = max(_status_bytes("VmRSS") or 0, self.held_bytes.get(stage, 0))
        try:
            yield
        finally:
            self._keep_peak()
            self._running.remove(stage)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - started, 3)

    def _keep_peak(self) -> None:
        """The high-water mark so far belongs to every running stage; the next one begins anew."""
        peak = _status_bytes("VmHWM")
        if peak is None:
            return
        for stage in self._running:
            self.peak_bytes[stage] = max(peak, self.peak_bytes.get(stage, 0))
        with suppress(OSError):  # where it is forbidden, a stage's figure includes the stages before it
            (PROCESS / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def compare_memory(predicted: Sequence[StageMemory], clock: Clock) -> list[dict[str, Any]]:
    """Predicted and measured peak of every stage that was both; the stages of a finished export that were resumed were not.

    An estimate begins with a process that holds nothing yet. What a calibration or a recovery left behind, torch above all, is
    taken off a later stage's peak; those two count it themselves.
    """
    names = {stage.stage: MEASURED_AS.get(stage.stage, stage.stage) for stage in predicted}
    if "calibrate" in names and not any(name.startswith("statistics") for name in clock.peak_bytes):
        # A solver with error feedback calibrates layer by layer while it quantizes: one stage, of the pass's size.
        names["calibrate"] = names.pop("quantize", "quantize")
    rows = []
    for stage in predicted:
        if stage.stage not in names:
            continue
        name = names[stage.stage]
        starts_bare = stage.stage not in MEASURED_AS
        peaks = [
            peak - (max(0, clock.held_bytes.get(measured, 0) - PROCESS_BYTES) if starts_bare else 0)
            for measured, peak in clock.peak_bytes.items()
            if measured == name or measured.startswith(f"{name} ")
        ]
        if peaks:
            rows.append(
                {"stage": stage.stage, "predicted_bytes": stage.resident_bytes, "measured_bytes": max(peaks)}
            )
    return rows


def _status_bytes(name: str) -> int | None:
    """A size of this process as the kernel tells it: VmRSS now, VmHWM at most."""
    try:
        text = (PROCESS / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None
