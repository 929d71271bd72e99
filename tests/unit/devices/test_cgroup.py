"""Control groups, version 1, version 2, both, and containers whose group lies outside of what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeport.devices.cgroup import Limits, read_limits

if TYPE_CHECKING:
    from tests.unit.devices.conftest import FakeRoot

V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
NO_LIMIT_V1 = "9223372036854771712\n"


def test_nothing_there_is_no_limit(fake_root: FakeRoot) -> None:
    assert read_limits(fake_root({"proc/meminfo": ""})) == Limits()


def test_version_2_takes_the_tightest_level(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/outer/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/memory.max": "2147483648\n",
            "sys/fs/cgroup/outer/memory.current": "1500000000\n",
            "sys/fs/cgroup/outer/memory.stat": "anon 5\ninactive_file 500000000\n",
            "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        }
    )
    assert read_limits(root) == Limits(2.5, 2147483648, 2147483648 - 1_000_000_000)


def test_version_1_with_separate_controllers(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": "73741824\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
        }
    )
    assert read_limits(root) == Limits(1.5, 1073741824, 1_000_000_000)


def test_no_limit_of_version_1_is_no_limit(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
        }
    )
    assert read_limits(root) == Limits()


@pytest.mark.parametrize("shown", ["/", "/docker/abc"])
def test_a_container_that_sees_only_its_own_group(shown: str, fake_root: FakeRoot) -> None:
    """The group's path is the host's, the mount shows only the container's part of the hierarchy."""
    root = fake_root(
        {
            "proc/self/cgroup": "0::/docker/abc\n",
            "proc/self/mountinfo": f"31 23 0:28 {shown} /sys/fs/cgroup ro - cgroup2 cgroup ro\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/memory.max": "536870912\n",
        }
    )
    assert read_limits(root) == Limits(0.5, 536870912, None)


def test_a_mixed_system_looks_at_both(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/self/cgroup": "1:cpu,cpuacct:/a\n0::/b\n",
            "proc/self/mountinfo": V1_MOUNTS
            + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/b/cpu.max": "200000 100000\n",
        }
    )
    assert read_limits(root).cpus == 2.0


def test_damaged_files_are_no_limit(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/self/cgroup": "nonsense\n0::/\n",
            "proc/self/mountinfo": "short\n" + V2_MOUNT,
            "sys/fs/cgroup/cpu.max": "banana\n",
            "sys/fs/cgroup/memory.max": "\n",
        }
    )
    assert read_limits(root) == Limits()
