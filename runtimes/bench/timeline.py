"""Memory over time, watched from outside: what a process takes while it imports, loads, reads a prompt and writes.

Engines keep Python's lock for as long as a load takes, so that a thread of the measured process would see nothing of it. A
second small process reads the counters instead. It is used in the memory run only, never while anything is timed.
RssAnon, RssFile and RssShmem are the kernel's running counters and may lag by some pages; the exact figures of the moments that
count (`MemoryUse`) come from smaps_rollup. Spec: proc_pid_status(5).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MemoryStage = Literal["import", "load", "prompt", "decode"]
INTERVAL_S = 0.01
MOST_MOMENTS = 200
"""Kept in a manifest: each stretch of time keeps its highest moment, so that no peak is lost."""
_SAMPLER = """
import sys, time
process_id, interval_s, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
with open(path, "w") as out:
    while True:
        try:
            with open(f"/proc/{process_id}/status") as status:
                text = status.read()
        except OSError:
            break
        values = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Rss"))
        if len(values) < 3:
            break
        kilobytes = [values[name].split()[0] for name in ("RssAnon", "RssFile", "RssShmem")]
        print(time.monotonic(), *kilobytes, file=out, flush=True)
        time.sleep(interval_s)
"""


@dataclass(frozen=True, slots=True)
class MemoryMoment:
    """seconds: since the watching began. resident_bytes = anonymous_bytes (shared memory too) + mapped_file_bytes."""

    seconds: float
    stage: MemoryStage
    resident_bytes: int
    anonymous_bytes: int
    mapped_file_bytes: int


class MemoryTimeline:
    """Stages of the watched process; `moments` is filled when the watching ends."""

    def __init__(self) -> None:
        self.moments: tuple[MemoryMoment, ...] = ()
        self._begins: list[tuple[float, MemoryStage]] = []

    def enter(self, stage: MemoryStage) -> None:
        """From now on memory belongs to `stage`."""
        self._begins.append((time.monotonic(), stage))

    def fill(self, lines: Sequence[str]) -> None:
        """Take over what the sampler wrote: `monotonic seconds, kB anonymous, kB of files, kB shared` per line."""
        samples = [tuple(float(word) for word in line.split()) for line in lines]
        whole = [sample for sample in samples if len(sample) == 4]
        if not self._begins or not whole:
            return
        start = self._begins[0][0]
        self.moments = thinned(
            [
                MemoryMoment(
                    round(at - start, 4),
                    self._stage_at(at),
                    round((anonymous + files + shared) * 1024),
                    round((anonymous + shared) * 1024),
                    round(files * 1024),
                )
                for at, anonymous, files, shared in whole
                if at >= start
            ]
        )

    def _stage_at(self, at: float) -> MemoryStage:
        return next(stage for begin, stage in reversed(self._begins) if begin <= at)


@contextmanager
def watched_memory(process_id: int, *, interval_s: float = INTERVAL_S) -> Iterator[MemoryTimeline]:
    """Sample `process_id` until the block ends. `moments` stays empty where there is no /proc to read."""
    timeline = MemoryTimeline()
    with tempfile.TemporaryDirectory(prefix="edgeport-memory-") as folder:
        path = Path(folder) / "samples"
        command = [sys.executable, "-I", "-S", "-c", _SAMPLER, str(process_id), str(interval_s), str(path)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
            try:
                _wait_for_first(path, sampler)
                yield timeline
            finally:
                sampler.kill()
        # a line that was being written when the sampler was killed has no end
        text = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
        timeline.fill([line for line in text.splitlines(keepends=True) if line.endswith("\n")])


def thinned(moments: Sequence[MemoryMoment], *, most: int = MOST_MOMENTS) -> tuple[MemoryMoment, ...]:
    """At most about `most`: equal stretches of time keep their highest moment, and each stage its first."""
    if len(moments) <= most:
        return tuple(moments)
    begin, length = moments[0].seconds, (moments[-1].seconds - moments[0].seconds) or 1.0
    highest: dict[tuple[int, str], MemoryMoment] = {}
    for moment in moments:
        key = (min(most - 1, int(most * (moment.seconds - begin) / length)), moment.stage)
        if key not in highest or moment.resident_bytes > highest[key].resident_bytes:
            highest[key] = moment
    return tuple(sorted(highest.values(), key=lambda moment: moment.seconds))


def _wait_for_first(path: Path, sampler: subprocess.Popen[bytes], *, at_most_s: float = 5.0) -> None:
    """So that the first stage is not missed; gives up where nothing can be sampled."""
    end = time.monotonic() + at_most_s
    while time.monotonic() < end and sampler.poll() is None:
        if path.exists() and path.stat().st_size:
            return
        time.sleep(0.005)
