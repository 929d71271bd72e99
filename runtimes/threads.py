"""How many threads an engine gets: the physical cores this process may really use.

Engines left alone take half of the logical processors (onnxruntime-genai), all of them (others), and never look at a
container's quota. Hyper-threads share the units that matrix products need, and threads beyond a quota are throttled.
"""

from __future__ import annotations

from edgeport.devices.probe import available_threads
from edgeport.errors import UsageError


def thread_count(asked: int | None) -> int:
    """`asked`, or when None the physical cores within affinity and cgroup quota."""
    if asked is None:
        return available_threads()
    if asked < 1:
        raise UsageError(f"threads must be at least 1, not {asked}")
    return asked


def first_count(*asked: int | None) -> int:
    """The first of `asked` that is a number, else the default of `thread_count`."""
    return thread_count(next((count for count in asked if count is not None), None))
