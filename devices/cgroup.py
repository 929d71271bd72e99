"""CPU quota and memory limit of the control groups this process runs in, version 1 and 2.

A container or a service may use far less than the machine has: threads beyond the quota are throttled, memory beyond
the limit ends the process. Every level from the own group up to the root may hold a limit; the smallest one counts.
Spec: https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html, man 5 proc (self/cgroup, mountinfo).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 2**60
"""Version 1 writes "no limit" as the largest multiple of the page size below 2**63."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None means no limit. `memory_free_bytes` is what the group may still take (page cache counts as free)."""

    cpus: float | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None


def read_limits(root: Path = Path("/")) -> Limits:
    """The tightest limits of the groups of this process; `root` is where /proc and /sys hang."""
    cpus = [
        *(_quota_v2(folder) for folder in group_folders(root, None)),
        *(_quota_v1(folder) for folder in group_folders(root, "cpu")),
    ]
    memory = [
        *(_memory_v2(folder) for folder in group_folders(root, None)),
        *(_memory_v1(folder) for folder in group_folders(root, "memory")),
    ]
    limits = [limit for limit, _free in memory if limit is not None]
    free = [free for _limit, free in memory if free is not None]
    return Limits(
        cpus=min((quota for quota in cpus if quota is not None), default=None),
        memory_bytes=min(limits, default=None),
        memory_free_bytes=min(free, default=None),
    )


def group_folders(root: Path, controller: str | None) -> Iterator[Path]:
    """The folders of our group and of all its parents; `controller` None is version 2."""
    group = _group_path(root, controller)
    mount = _mount(root, controller)
    if group is None or mount is None:
        return
    mount_point, mount_root = mount
    inside = PurePosixPath(group)
    # In a container the mount may show only a part of the hierarchy, and the group's path may lie outside of it.
    inside = inside.relative_to(mount_root) if inside.is_relative_to(mount_root) else inside.relative_to("/")
    folder = root / mount_point.lstrip("/") / inside
    top = root / mount_point.lstrip("/")
    while True:
        if folder.is_dir():
            yield folder
        if folder == top or top not in folder.parents:
            return
        folder = folder.parent


def _group_path(root: Path, controller: str | None) -> str | None:
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controller is None and number == "0") or (
            controller is not None and controller in controllers.split(",")
        ):
            return path
    return None


def _mount(root: Path, controller: str | None) -> tuple[str, str] | None:
    """(mount point, what part of the hierarchy it shows) from /proc/self/mountinfo."""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if not separator or len(fields) < 5 or len(tail) < 3:
            continue
        is_v2 = controller is None and tail[0] == "cgroup2"
        is_v1 = controller is not None and tail[0] == "cgroup" and controller in tail[2].split(",")
        if is_v2 or is_v1:
            return fields[4], fields[3]
    return None


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = read_text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _memory_v2(folder: Path) -> tuple[int | None, int | None]:
    limit = read_int(folder / "memory.max")
    return _with_free(limit, read_int(folder / "memory.current"), folder / "memory.stat", "inactive_file")


def _memory_v1(folder: Path) -> tuple[int | None, int | None]:
    limit = read_int(folder / "memory.limit_in_bytes")
    return _with_free(
        limit, read_int(folder / "memory.usage_in_bytes"), folder / "memory.stat", "total_inactive_file"
    )


def _with_free(
    limit: int | None, used: int | None, stat: Path, cache_key: str
) -> tuple[int | None, int | None]:
    if limit is None or limit >= UNLIMITED_BYTES:
        return None, None
    if used is None:
        return limit, None
    cache = 0
    for line in read_text(stat).splitlines():
        key, _, value = line.partition(" ")
        if key == cache_key and value.isdigit():
            cache = int(value)
    return limit, max(0, limit - max(0, used - cache))


def read_text(path: Path) -> str:
    """The file's text, or nothing when it is not there: every one of these files is optional somewhere."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None
