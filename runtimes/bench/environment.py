"""What the figures were measured on. A value that cannot be read is None and shown as "unavailable", never as 0.

The processor, its caches and limits come from edgeport.devices. Load is taken when the benchmark starts: a busy machine
explains a slow figure better than any statistic.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.cgroup import read_text
from edgeport.devices.probe import read_host
from edgeport.units import format_bytes

UNAVAILABLE = "unavailable"
GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
CONTAINER_FILES = {".dockerenv": "docker", "run/.containerenv": "podman"}
CONTAINER_GROUPS = {"kubepods": "kubernetes", "docker": "docker", "containerd": "containerd", "lxc": "lxc"}


@dataclass(frozen=True, slots=True)
class Environment:
    cpu_model: str
    architecture: str
    cores: int
    """Physical cores this process may use."""
    logical_cpus: int | None
    cpu_quota: float | None
    """CPUs the control group allows; None means no limit."""
    isa: tuple[str, ...]
    last_level_cache_bytes: int | None
    governor: str | None
    ram_bytes: int
    available_bytes: int
    load_average: float | None
    """Runnable tasks over the last minute, when the benchmark started."""
    container: str
    """`docker`, `kubernetes`, ... or `none`."""
    operating_system: str
    kernel: str
    python: str
    packages: tuple[str, ...] = ()
    """`name version` of edgeport and of each engine used."""

    def rows(self) -> list[tuple[str, str]]:
        """For people: label and value, "unavailable" where nothing could be read."""
        quota = "no limit" if self.cpu_quota is None else f"{self.cpu_quota:g} CPUs"
        cache = (
            UNAVAILABLE if self.last_level_cache_bytes is None else format_bytes(self.last_level_cache_bytes)
        )
        return [
            ("CPU", self.cpu_model or UNAVAILABLE),
            ("Cores", f"{self.cores} physical, {_show(self.logical_cpus)} logical, quota: {quota}"),
            ("Instruction sets", " ".join(self.isa) or UNAVAILABLE),
            ("Last-level cache", cache),
            ("Governor", _show(self.governor)),
            (
                "Memory",
                f"{format_bytes(self.ram_bytes)}, {format_bytes(self.available_bytes)} available at the start",
            ),
            ("Load at the start", _show(self.load_average)),
            ("Container", self.container),
            ("System", f"{self.operating_system}, kernel {self.kernel}, {self.architecture}"),
            ("Software", ", ".join((f"Python {self.python}", *self.packages))),
        ]


def capture(packages: Iterable[str] = (), *, root: Path = Path("/")) -> Environment:
    """Read this machine; `packages` are distribution names whose versions matter, `root` stands for / in tests."""
    host = read_host(root)
    return Environment(
        cpu_model=host.cpu.model,
        architecture=host.cpu.architecture,
        cores=host.cpu.cores,
        logical_cpus=os.cpu_count(),
        cpu_quota=host.limits.cpus,
        isa=host.cpu.isa,
        last_level_cache_bytes=host.cpu.last_level_cache_bytes,
        governor=read_text(root / GOVERNOR).strip() or None,
        ram_bytes=host.ram_bytes,
        available_bytes=host.available_bytes,
        load_average=_load_average(root),
        container=_container(root),
        operating_system=_operating_system(root),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=tuple(f"{name} {version}" for name in packages if (version := package_version(name))),
    )


def package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load_average(root: Path) -> float | None:
    words = read_text(root / "proc/loadavg").split()
    return float(words[0]) if words else None


def _container(root: Path) -> str:
    for name, kind in CONTAINER_FILES.items():
        if (root / name).exists():
            return kind
    groups = read_text(root / "proc/1/cgroup")
    return next((kind for mark, kind in CONTAINER_GROUPS.items() if mark in groups), "none")


def _operating_system(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release"), re.MULTILINE)
    return match.group(1) if match else platform.system()


def _show(value: object) -> str:
    return UNAVAILABLE if value is None else str(value)
