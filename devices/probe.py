"""This machine as a device profile, and the number of threads an engine should use here.

Nothing is probed at import, no other program is started. Containers are respected: affinity, CPU quota and memory
limit of the control groups count, not what the machine has.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.bandwidth import MemoryBandwidth, measure_memory_bandwidth
from edgeport.devices.cgroup import Limits, read_limits, read_text
from edgeport.devices.container import container_kind, is_virtual
from edgeport.devices.cpu import Cpu, affinity, physical_cores, read_cpu
from edgeport.devices.profile import ARCHITECTURES, FORMATS, DeviceProfile
from edgeport.errors import EdgeportError

ROOT = Path("/")
ENGINES = ("llama.cpp", "onnxruntime", "openvino")
EDGE_RAM_BYTES = 8 * 2**30
SERVER_RAM_BYTES = 96 * 2**30


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Everything the probe saw; `ram_bytes` and `available_bytes` already respect the control group's limit.

    container: what kind of container this is, None outside of one. virtual: a hypervisor lends the processor.
    """

    cpu: Cpu
    limits: Limits
    ram_bytes: int
    available_bytes: int
    threads: int
    container: str | None = None
    virtual: bool = False


def available_threads(root: Path = ROOT) -> int:
    """Threads an engine should use: physical cores in the affinity mask, at most the CPU quota rounded down, at least 1.

    Hyper-threads don't help decoding, which waits for memory, and threads above the quota are throttled as a group.
    """
    cores = physical_cores(root, affinity())
    quota = read_limits(root).cpus
    return cores if quota is None else max(1, min(cores, int(quota)))


def read_host(root: Path = ROOT) -> HostFacts:
    """What /proc, /sys and the control groups say, without measuring anything."""
    limits = read_limits(root)
    total, available = _memory(root)
    ram = min(total, limits.memory_bytes or total)
    free = min(available, ram if limits.memory_free_bytes is None else limits.memory_free_bytes)
    return HostFacts(
        read_cpu(root), limits, ram, free, available_threads(root), container_kind(root), is_virtual(root)
    )


def probe_host(*, seconds: float = 1.0) -> DeviceProfile:
    """This machine as a profile, its read bandwidth measured in about `seconds`."""
    facts = read_host()
    return host_profile(facts, measure_host(facts, seconds=seconds))


def measure_host(facts: HostFacts, *, seconds: float = 1.0) -> MemoryBandwidth:
    """Read bandwidth of this machine with the threads an engine would use."""
    return measure_memory_bandwidth(
        facts.threads,
        seconds=seconds,
        last_level_cache_bytes=facts.cpu.last_level_cache_bytes or 0,
        available_bytes=facts.available_bytes,
    )


def host_profile(
    facts: HostFacts, bandwidth: MemoryBandwidth, *, int8_ops_per_s: int | None = None
) -> DeviceProfile:
    """The profile of what was probed and measured. Pure.

    int8_ops_per_s: what a library was seen to reach; the peak by clock and instruction set counts unless that is more.
    """
    cpu = facts.cpu
    peak = 0 if cpu.int8_ops_per_s is None else cpu.int8_ops_per_s * facts.threads // cpu.cores
    return DeviceProfile(
        name="host",
        kind=_kind(cpu.architecture, facts.ram_bytes),
        tier=_tier(facts.ram_bytes),
        description=f"this machine: {cpu.model}, {facts.threads} threads",
        ram_bytes=facts.ram_bytes,
        usable_ram_bytes=facts.available_bytes,
        memory_bandwidth_bytes_per_s=bandwidth.read_bytes_per_s,
        sustained_bandwidth_bytes_per_s=bandwidth.read_bytes_per_s,
        cores=facts.threads,
        engines=ENGINES,
        formats=FORMATS,
        recipe="int4",
        context_length=2048 if facts.ram_bytes < EDGE_RAM_BYTES else 8192,
        architecture=cpu.architecture if cpu.architecture in ARCHITECTURES else None,
        isa=cpu.isa,
        last_level_cache_bytes=cpu.last_level_cache_bytes,
        int8_ops_per_s=max(peak, int8_ops_per_s or 0) or None,
    )


def _tier(ram_bytes: int) -> str:
    if ram_bytes <= EDGE_RAM_BYTES:
        return "edge"
    return "workstation" if ram_bytes <= SERVER_RAM_BYTES else "server"


def _kind(architecture: str, ram_bytes: int) -> str:
    """A guess that only groups the profile in lists."""
    if ram_bytes > SERVER_RAM_BYTES:
        return "cpu-server"
    return "board" if architecture == "aarch64" or ram_bytes <= EDGE_RAM_BYTES else "desktop"


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) bytes of RAM of the machine, before any control group."""
    text = read_text(root / "proc/meminfo")
    values = {
        match[1]: int(match[2]) * 1024 for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }
    if "MemTotal" in values:
        return values["MemTotal"], values.get("MemAvailable", values.get("MemFree", values["MemTotal"]))
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError) as error:
        raise EdgeportError(
            "the memory of this system cannot be read (no /proc/meminfo, no sysconf)",
            hint="write a profile by hand: docs/add-a-device.md",
        ) from error
    return total, total // 2
