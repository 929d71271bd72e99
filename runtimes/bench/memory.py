"""Memory of this process: the peak the kernel saw, and what it is made of.

Mapped file pages (a memory-mapped container) can be dropped and read again under pressure; anonymous pages cannot, and
decide whether a device survives. Only one of the two figures is misleading, so both are kept.
Spec: proc_pid_status(5) VmHWM, proc_pid_smaps(5) smaps_rollup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class MemorySample:
    """None where the system does not tell."""

    resident_bytes: int | None
    anonymous_bytes: int | None
    mapped_file_bytes: int | None
    peak_resident_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Moments of a process that does nothing but load a container, read one prompt and write some tokens after it."""

    before_load: MemorySample
    """The interpreter and the engine's library, before the container is opened."""
    after_load: MemorySample
    after_prompt: MemorySample
    n_prompt: int
    context_length: int
    after_decode: MemorySample | None = None
    """Steady: nothing but decoded tokens has happened since the prompt."""
    n_gen: int = 0


def sample_memory(process: Path = PROCESS) -> MemorySample:
    rollup = _read(process / "smaps_rollup")
    resident = _kilobytes(rollup, "Rss")
    anonymous = _kilobytes(rollup, "Anonymous")
    return MemorySample(
        resident_bytes=resident,
        anonymous_bytes=anonymous,
        mapped_file_bytes=None if resident is None or anonymous is None else resident - anonymous,
        peak_resident_bytes=_kilobytes(_read(process / "status"), "VmHWM"),
    )


def _kilobytes(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
