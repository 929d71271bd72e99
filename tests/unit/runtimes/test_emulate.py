"""Processors and memory are really limited: a child that holds too much is killed and reported, one that does not is left alone."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.cpu import affinity
from edgeport.errors import DoesNotFit, RuntimeFailure, UsageError
from edgeport.runtimes.confinement import ConfinedChild, Confinement, choose_enforcement
from edgeport.runtimes.emulate import emulate
from edgeport.runtimes.isolation import run_isolated
from edgeport.runtimes.memory_group import PREFIX, group_parent, make_group, remove_group

HERE = __name__
MIB = 2**20
PARENT = """
import subprocess, sys
sys.path[:0] = sys.argv[1].split(":")
from edgeport.runtimes.confinement import Confinement, choose_enforcement, confined
with confined(Confinement((), 2**30, choose_enforcement())) as child:
    command = child.command([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"])
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.read(1)
    print(process.pid, flush=True)
    process.wait()
"""
PI = "raspberry-pi-5-8gb"


def hold(mib: int) -> dict[str, Any]:
    """Touch that much, then say where we ran."""
    buffer = ctypes.create_string_buffer(mib * MIB)
    ctypes.memset(buffer, 1, mib * MIB)
    time.sleep(0.1)
    return {"cpus": sorted(os.sched_getaffinity(0)), "first": buffer[0][0]}


def reserve(mib: int) -> int:
    """Map that much and touch none of it, as allocators and engines do."""
    import mmap

    with mmap.mmap(-1, mib * MIB) as memory:
        time.sleep(0.1)
        return len(memory)


def sleep() -> None:
    time.sleep(60)


def crash() -> None:
    os.abort()


def confinement(mib: int, cpus: int = 1) -> Confinement:
    return Confinement(tuple(sorted(affinity()))[:cpus], mib * MIB, choose_enforcement())


def test_a_child_within_its_limits_runs_on_its_processors() -> None:
    limits = confinement(200)
    assert run_isolated(f"{HERE}:hold", {"mib": 100}, confinement=limits)["cpus"] == list(limits.cpus)
    assert len(affinity()) >= len(limits.cpus), "the caller keeps its own"


def test_a_child_that_holds_more_is_killed_and_it_says_so() -> None:
    with pytest.raises(DoesNotFit, match="does not fit 100 MiB: killed when it held") as caught:
        run_isolated(f"{HERE}:hold", {"mib": 400}, confinement=confinement(100))
    assert caught.value.exit_code == 1


def test_reserved_address_space_is_not_memory() -> None:
    assert run_isolated(f"{HERE}:reserve", {"mib": 2000}, confinement=confinement(100)) == 2000 * MIB


def test_a_crash_is_still_a_crash() -> None:
    with pytest.raises(RuntimeFailure, match="SIGABRT"):
        run_isolated(f"{HERE}:crash", {}, confinement=confinement(200))


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Killed without a chance to clean up: no engine is left, and a control group is removed by the next run."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, ":".join(sys.path)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, f"process {child} outlived its parent"
        time.sleep(0.02)


@pytest.mark.skipif(group_parent() is None, reason="no control group (version 2) can be made here")
def test_groups_of_killed_runs_are_removed_by_the_next_one() -> None:
    parent = group_parent()
    assert parent is not None
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    stale = parent / f"{PREFIX}{gone.pid}-1"
    stale.mkdir()
    group = make_group(parent, 64 * MIB)
    assert not stale.exists() and group.folder.is_dir()
    remove_group(group)
    assert not group.folder.exists()


@pytest.mark.parametrize(
    ("handed_down", "writable", "found"),
    [("cpu memory", True, True), ("cpu", True, False), ("memory", False, False)],
)
def test_a_group_goes_where_the_memory_controller_is_handed_down(
    tmp_path: Path, handed_down: str, writable: bool, found: bool
) -> None:
    """The kernel's files as a user's session has them: its own scope, and the slice above that was delegated."""
    if os.geteuid() == 0 and not writable:
        pytest.skip("root may write everywhere")
    mount = tmp_path / "sys/fs/cgroup"
    scope = mount / "app.slice/term.scope"
    scope.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/app.slice/term.scope\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    for folder, controllers in ((scope, ""), (scope.parent, handed_down), (mount, "")):
        (folder / "cgroup.subtree_control").write_text(controllers)
        (folder / "cgroup.procs").write_text("")
    (scope.parent / "cgroup.procs").chmod(0o644 if writable else 0o444)
    assert group_parent(tmp_path) == (scope.parent if found else None)


def test_the_group_gets_the_limit_and_the_child_joins_it(tmp_path: Path) -> None:
    """In a folder of plain files, so that what is written where can be read; the kernel's part is the test above."""
    group = make_group(tmp_path, 64 * MIB)
    assert (group.folder / "memory.max").read_text() == str(64 * MIB)
    limits = Confinement((), 64 * MIB, "cgroup")
    child = ConfinedChild(limits, group)
    process = subprocess.Popen(child.command([sys.executable, "-c", "pass"]))
    with child.watching(process):
        assert process.wait() == 0
    assert (group.folder / "cgroup.procs").read_text() == str(process.pid)
    child.check()
    (group.folder / "memory.events").write_text("max 3\noom 1\noom_kill 1\n")
    (group.folder / "memory.peak").write_text(str(63 * MIB))
    with child.watching(process):
        pass
    assert child.peak_bytes == 63 * MIB
    with pytest.raises(DoesNotFit, match="does not fit 64 MiB"):
        child.check()


def test_a_device_lends_its_cores_and_usable_memory() -> None:
    pi = load_profile(PI)
    emulation = emulate(pi)
    assert emulation.memory_bytes == pi.usable_ram_bytes
    assert 1 <= len(emulation.cpus) <= min(pi.cores, len(affinity()))
    if len(emulation.cpus) < pi.cores:
        assert any(f"has {pi.cores} cores" in note for note in emulation.notes)
    one = emulate(dataclasses.replace(pi, cores=1), memory_bytes=MIB)
    assert len(one.cpus) == 1 and one.memory_bytes == MIB
    assert not any("cores" in note for note in one.notes)


def test_a_limit_above_what_is_free_is_told() -> None:
    assert any("are free here" in note for note in emulate(None, memory_bytes=2**50).notes)


@pytest.mark.parametrize("memory_bytes", [None, 0, -1])
def test_nothing_to_emulate_is_refused(memory_bytes: int | None) -> None:
    with pytest.raises(UsageError):
        emulate(None, memory_bytes=memory_bytes)


def test_a_hanging_confined_child_is_stopped() -> None:
    with pytest.raises(RuntimeFailure, match="did not finish"):
        run_isolated(f"{HERE}:sleep", {}, confinement=confinement(200), timeout_s=0.3)
