"""A control group (version 2) with a memory limit, where this process may make one.

One can be made as root, and below a unit that systemd delegated to the user (`systemd-run --user --scope`). The kernel then
counts anonymous memory, the page cache the group caused and its own structures, drops clean file pages first, and kills what
is still too much; swap is switched off in the group, because a device that swaps its model has not got the memory.
Spec: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.events, cgroup.kill, delegation containment).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.cgroup import group_folders, read_int, read_text

PREFIX = "edgeport-"
REMOVE_ATTEMPTS = 50
REMOVE_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    folder: Path

    @property
    def oom_kills(self) -> int:
        """Processes the kernel killed because the group was over its limit."""
        for line in read_text(self.folder / "memory.events").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.isdigit():
                return int(value)
        return 0

    @property
    def peak_bytes(self) -> int | None:
        """The most the group was charged with; None before Linux 5.19."""
        return read_int(self.folder / "memory.peak")


def group_parent(root: Path = Path("/")) -> Path | None:
    """The nearest folder in which a group with a memory limit can be made and this process' children moved there.

    That is an ancestor of our own group which hands the memory controller to its children, and whose `cgroup.procs` is
    ours to write: moving a process asks for that on the common ancestor of both groups.
    """
    for folder in group_folders(root, None):
        handed_down = read_text(folder / "cgroup.subtree_control").split()
        if (
            "memory" in handed_down
            and os.access(folder, os.W_OK)
            and os.access(folder / "cgroup.procs", os.W_OK)
        ):
            return folder
    return None


def make_group(parent: Path, limit_bytes: int) -> MemoryGroup:
    """A new group below `parent`; groups that killed runs left there are removed first. Raises OSError."""
    remove_stale(parent)
    folder = parent / f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    group = MemoryGroup(folder)
    try:
        (folder / "memory.max").write_text(str(limit_bytes), encoding="ascii")
        swap = folder / "memory.swap.max"
        if swap.exists():  # absent on a kernel without swap accounting, which then has no swap to give either
            swap.write_text("0", encoding="ascii")
    except OSError:
        remove_group(group)
        raise
    return group


def remove_group(group: MemoryGroup) -> None:
    """Kill what is left in it and remove it; a group can go only some time after its last process did."""
    with contextlib.suppress(OSError):
        (group.folder / "cgroup.kill").write_text("1", encoding="ascii")
    for _ in range(REMOVE_ATTEMPTS):
        try:
            group.folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(REMOVE_INTERVAL_S)
        else:
            return


def remove_stale(parent: Path) -> None:
    """Remove the groups of edgeport processes that are gone: their engines died with them."""
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
