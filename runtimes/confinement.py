"""What a child process may use: processors and memory, and how the memory limit is enforced.

    with confined(confinement) as confined_child:
        process = subprocess.Popen(confined_child.command([...]))
        with confined_child.watching(process):
            process.wait()
        confined_child.check()

A control group is used where one can be made, else the process is watched (edgeport.runtimes.memory_watch).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeport.errors import DoesNotFit, EdgeportError
from edgeport.runtimes.confined_start import NONE
from edgeport.runtimes.memory_group import MemoryGroup, group_parent, make_group, remove_group
from edgeport.runtimes.memory_watch import MemoryWatch, held_bytes
from edgeport.units import format_bytes

Enforcement = Literal["cgroup", "watch"]
COUNTED = {
    "cgroup": "a control group counts all memory, the kernel drops file pages first and then kills; no swap",
    "watch": "no control group can be made here, so the process is watched: resident anonymous and shared memory counts, "
    "pages of files do not",
}
"""What each enforcement counts, for people."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """cpus: logical processors. memory_bytes: the limit of the process; what it holds beyond that ends it."""

    cpus: tuple[int, ...]
    memory_bytes: int
    enforcement: Enforcement


class ConfinedChild:
    """One run under a confinement. peak_bytes: the most it was seen to hold, None before it ended or where nobody tells."""

    def __init__(self, confinement: Confinement, group: MemoryGroup | None) -> None:
        self.confinement = confinement
        self.peak_bytes: int | None = None
        self._group = group
        self._killed_at_bytes: int | None = None

    def command(self, command: Sequence[str]) -> list[str]:
        """`command` behind the start that sets the limits."""
        cpus = ",".join(map(str, self.confinement.cpus)) or NONE
        group = str(self._group.folder) if self._group else NONE
        start = [sys.executable, "-m", "edgeport.runtimes.confined_start"]
        return [*start, str(os.getpid()), cpus, group, *command]

    @contextlib.contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        if self._group is not None:
            yield
            self.peak_bytes = self._group.peak_bytes
            if self._group.oom_kills:
                self._killed_at_bytes = self.confinement.memory_bytes
            return
        with MemoryWatch(process, self.confinement.memory_bytes) as watch:
            yield
        self.peak_bytes = watch.peak_bytes
        self._killed_at_bytes = watch.killed_at_bytes

    def check(self) -> None:
        """Raise DoesNotFit when the memory limit ended the process."""
        if self._killed_at_bytes is None:
            return
        limit = format_bytes(self.confinement.memory_bytes)
        held = format_bytes(self._killed_at_bytes)
        raise DoesNotFit(
            f"does not fit {limit}: killed when it held {held}",
            hint="a shorter context, fewer bits or a smaller model need less; `edgeport plan` says how much",
        )


@contextlib.contextmanager
def confined(confinement: Confinement) -> Iterator[ConfinedChild]:
    """Make the control group, where that is how memory is limited, and remove it afterwards.

    Raises EdgeportError when the group could be made a moment ago and cannot now.
    """
    if confinement.enforcement == "watch":
        yield ConfinedChild(confinement, None)
        return
    parent = group_parent()
    try:
        if parent is None:
            raise OSError("nobody delegated one to this process")
        group = make_group(parent, confinement.memory_bytes)
    except OSError as error:
        raise EdgeportError(f"no control group with a memory limit can be made: {error}") from error
    try:
        yield ConfinedChild(confinement, group)
    finally:
        remove_group(group)


def choose_enforcement() -> Enforcement:
    """How memory can be limited here. Raises EdgeportError where neither way exists: nothing is emulated silently."""
    parent = group_parent()
    if parent is not None:
        try:
            remove_group(make_group(parent, 2**40))
        except OSError:
            pass
        else:
            return "cgroup"
    if held_bytes(os.getpid()) is None or not hasattr(os, "sched_setaffinity"):
        raise EdgeportError(
            "this system offers no way to limit a process: no control group (version 2), and no /proc that tells its memory",
            hint="emulate on Linux",
        )
    return "watch"
