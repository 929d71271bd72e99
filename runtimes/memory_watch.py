"""A memory limit without a control group: look at the process often, and kill it when it holds too much.

What counts is resident anonymous and shared memory (RssAnon + RssShmem), which is what a device cannot drop. Pages of files are
left out, as the kernel can read them again. The resource limits would not do: RLIMIT_AS counts address space and RLIMIT_DATA
every private mapping, touched or not. llama.cpp with a 0.5B model was seen with 637 MiB and 512 MiB there, and 398 MiB resident.
The price is that the limit is noticed late by what a process can touch between two looks, so looks come closer to each other
as the limit comes near. Spec: proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from pathlib import Path

TOUCHED_BYTES_PER_S = 4e9
"""How fast a process may grow, for the next look: page faults of one thread zero about this much."""
SHORTEST_S, LONGEST_S = 0.001, 0.05
_COUNTED = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


class MemoryWatch:
    """Watches one process from `with` to its end. `killed_at_bytes`: what it held when it was killed, None when it was not."""

    def __init__(self, process: subprocess.Popen[bytes], limit_bytes: int) -> None:
        self.peak_bytes = 0
        self.killed_at_bytes: int | None = None
        self._process = process
        self._limit_bytes = limit_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            held = held_bytes(self._process.pid)
            if held is None:
                return
            self.peak_bytes = max(self.peak_bytes, held)
            if held > self._limit_bytes:
                self.killed_at_bytes = held
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()  # does nothing to a process that was waited for
                return
            left = self._limit_bytes - held
            pause = min(LONGEST_S, max(SHORTEST_S, left / TOUCHED_BYTES_PER_S))


def held_bytes(process_id: int) -> int | None:
    """Resident bytes that cannot be read again from a file; None when the process is gone or not told about."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = [int(match) * 1024 for match in _COUNTED.findall(status)]
    return sum(found) if found else None
