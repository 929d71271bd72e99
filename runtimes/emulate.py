"""Another device's cores and memory for the engine's process on this machine.

Memory is real: a container that needs more than the device has is killed here as it would be there. Cores are real up to
those of this machine. Speed is not: this machine's cores and memory are other ones, so rates are scaled from what both devices
are known to do (edgeport.runtimes.bench.scaled).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeport.devices.cpu import affinity, one_per_core
from edgeport.devices.probe import read_host
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import UsageError
from edgeport.runtimes.confinement import COUNTED, Confinement, Enforcement, choose_enforcement
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class Emulation:
    """device: None when only memory was limited. cores: the device's. cpus: logical processors of this machine in use.

    notes: where this machine falls short of the device, for people.
    """

    device: str | None
    cores: int
    cpus: tuple[int, ...]
    memory_bytes: int
    enforcement: Enforcement
    notes: tuple[str, ...] = ()

    @property
    def confinement(self) -> Confinement:
        return Confinement(self.cpus, self.memory_bytes, self.enforcement)

    def __str__(self) -> str:
        """`raspberry-pi-5-8gb: 2 of 4 cores, 7 GiB`."""
        name = self.device or "this machine"
        cores = (
            f"{len(self.cpus)} cores"
            if len(self.cpus) == self.cores
            else f"{len(self.cpus)} of {self.cores} cores"
        )
        return f"{name}: {cores}, {format_bytes(self.memory_bytes)}"


def emulate(profile: DeviceProfile | None, *, memory_bytes: int | None = None) -> Emulation:
    """The device's cores and usable memory as far as this machine has them; `memory_bytes` overrides the memory.

    Raises UsageError without a device and a limit, or for a limit that is no size; EdgeportError where nothing can be limited.
    """
    if profile is None and memory_bytes is None:
        raise UsageError("nothing to emulate", hint="name a device or a memory limit")
    if memory_bytes is not None and memory_bytes <= 0:
        raise UsageError(f"a memory limit of {memory_bytes} bytes", hint="give more than zero: 1GB, 512MiB")
    host = read_host()
    cores = one_per_core(Path("/"), affinity())[: host.threads]
    wanted = profile.cores if profile is not None else len(cores)
    limit = (
        memory_bytes if memory_bytes is not None else profile.usable_ram_bytes if profile is not None else 0
    )
    enforcement = choose_enforcement()
    return Emulation(
        device=profile.name if profile is not None else None,
        cores=wanted,
        cpus=cores[:wanted],
        memory_bytes=limit,
        enforcement=enforcement,
        notes=(
            *_shortfalls(profile, len(cores), limit, host.available_bytes),
            f"memory: {COUNTED[enforcement]}",
        ),
    )


def _shortfalls(profile: DeviceProfile | None, cores: int, limit: int, available_bytes: int) -> list[str]:
    notes = []
    if profile is not None and profile.cores > cores:
        notes.append(f"{profile.name} has {profile.cores} cores, this machine lends {cores}")
    if limit > available_bytes:
        notes.append(
            f"only {format_bytes(available_bytes)} are free here: what needs more fails for want of memory on this machine"
        )
    if profile is not None and profile.gpu is not None:
        notes.append(f"the {profile.gpu.name} is not emulated: everything runs on the CPU")
    return notes
