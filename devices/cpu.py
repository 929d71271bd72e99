"""Processor facts from /proc and /sys: physical cores, instruction sets, caches, clock.

x86 names features in `flags`, Arm in `Features`; the table below translates the kernel's names to those of the profiles.
Spec: https://docs.kernel.org/admin-guide/cputopology.html and .../arch/arm64/elf_hwcaps.html
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.cgroup import read_int, read_text
from edgeport.devices.profile import ISA_FLAGS, X86_FLAGS

CPU_FOLDER = Path("sys/devices/system/cpu")
ARM_NAMES: Mapping[str, str] = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
# INT8 operations (a multiply and an add are two) per core and cycle; the first flag the processor has counts.
# AMX: Intel optimization manual (1024 multiply-adds). VPDPBUSD: 16 lanes of 4 multiply-adds, one 512-bit operation per
# cycle as on Zen 4 (Intel servers have two). SMMLA/SDOT: two 128-bit pipes (Cortex-A76 and Neoverse guides).
INT8_OPERATIONS_PER_CYCLE: tuple[tuple[str, int], ...] = (
    ("amx_int8", 2048),
    ("avx512_vnni", 128),
    ("avx_vnni", 128),
    ("i8mm", 128),
    ("dotprod", 64),
    ("avx2", 42),
    ("neon", 16),
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """`cores` are the physical cores among the logical processors this process may run on."""

    model: str
    architecture: str
    cores: int
    isa: tuple[str, ...]
    last_level_cache_bytes: int | None
    clock_hz: int | None

    @property
    def int8_ops_per_s(self) -> int | None:
        """Peak INT8 rate of all cores by instruction set and clock, None when either is unknown."""
        per_cycle = next((rate for flag, rate in INT8_OPERATIONS_PER_CYCLE if flag in self.isa), None)
        return self.cores * self.clock_hz * per_cycle if per_cycle and self.clock_hz else None


def read_cpu(root: Path = Path("/"), processors: Iterable[int] | None = None) -> Cpu:
    """What /proc and /sys under `root` say; `processors` None means the affinity of this process."""
    allowed = affinity() if processors is None else frozenset(processors)
    text = read_text(root / "proc/cpuinfo")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.*)$", text, re.MULTILINE)
    features = frozenset(flags.group(1).split()) if flags else frozenset()
    found = {flag for flag in X86_FLAGS if flag in features} | {
        ARM_NAMES[f] for f in features if f in ARM_NAMES
    }
    if "asimd" in features:
        found -= set(X86_FLAGS)
    return Cpu(
        model=model.group(1).strip() if model else platform.processor() or platform.machine(),
        architecture="aarch64" if "asimd" in features else _architecture(),
        cores=physical_cores(root, allowed),
        isa=tuple(flag for flag in ISA_FLAGS if flag in found),
        last_level_cache_bytes=_last_level_cache(root, allowed),
        clock_hz=_clock(root, text),
    )


def affinity() -> frozenset[int]:
    """The logical processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(root: Path, processors: Iterable[int]) -> int:
    """Distinct cores among logical processors: two hyper-threads of one core count once."""
    return max(1, len(one_per_core(root, processors)))


def one_per_core(root: Path, processors: Iterable[int]) -> tuple[int, ...]:
    """The first logical processor of each physical core among `processors`, ascending."""
    first: dict[tuple[object, int | None, str], int] = {}
    for number in sorted(processors):
        topology = root / CPU_FOLDER / f"cpu{number}" / "topology"
        core, package = read_int(topology / "core_id"), read_int(topology / "physical_package_id")
        # Small boards number cores anew in each cluster; the sibling list is unique over all of them.
        siblings = read_text(topology / "thread_siblings_list").strip()
        first.setdefault((package, core, siblings) if core is not None else ("unknown", number, ""), number)
    return tuple(first.values())


def _last_level_cache(root: Path, processors: Iterable[int]) -> int | None:
    """The sum of the distinct caches of the highest level."""
    caches: dict[tuple[int, str], int] = {}
    for number in processors:
        for folder in (root / CPU_FOLDER / f"cpu{number}" / "cache").glob("index*"):
            level, kind = read_int(folder / "level"), read_text(folder / "type").strip()
            size = re.fullmatch(r"(\d+)([KMG]?)", read_text(folder / "size").strip())
            if level is None or size is None or kind == "Instruction":
                continue
            shared = read_text(folder / "shared_cpu_list").strip() or str(number)
            caches[level, shared] = (
                int(size.group(1)) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size.group(2)]
            )
    if not caches:
        return None
    highest = max(level for level, _shared in caches)
    return sum(size for (level, _shared), size in caches.items() if level == highest) or None


def _clock(root: Path, cpuinfo: str) -> int | None:
    khz = read_int(root / CPU_FOLDER / "cpu0/cpufreq/cpuinfo_max_freq")
    if khz:
        return khz * 1000
    mhz = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", cpuinfo, re.MULTILINE)
    return round(float(mhz.group(1)) * 10**6) if mhz else None


def _architecture() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
