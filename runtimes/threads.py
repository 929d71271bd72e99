"""How many threads an engine gets: the physical cores this process may really use.

Engines left alone take half of the logical processors (onnxruntime-genai), all of them (others), and never look at a
container's quota. Hyper-threads share the units that matrix products need, and threads beyond a quota are throttled.
"""

from __future__ import annotations

from pathlib import Path

from edgeport.devices.cgroup import read_limits
from edgeport.devices.cpu import affinity, physical_cores
from edgeport.errors import UsageError


def thread_count(asked: int | None) -> int:
    """`asked`, or when None the physical cores within affinity and cgroup quota."""
    if asked is None:
        quota = read_limits().cpus
        cores = physical_cores(Path("/"), affinity())
        return max(1, min(cores, int(quota))) if quota is not None else cores
    if asked < 1:
        raise UsageError(f"threads must be at least 1, not {asked}")
    return asked
