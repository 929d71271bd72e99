"""Energy by the processor's own counters (RAPL), where they can be read; else the reason why not, never 0.

Linux shows the counters as files: `intel-rapl:0` is a package with its cores, caches and memory controller, a zone below it
named `dram` is the memory. Zones `core` and `uncore` are parts of the package, and `psys` is more than the machine's processor:
adding them would count twice. Counters wrap at max_energy_range_uj, which takes a minute or more at full load, so they are read
between repetitions. Since Linux 5.10 only root may read them (CVE-2020-8694).
Spec: https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
IDLE_SECONDS = 1.0
MICROJOULES = 1e6


@dataclass(frozen=True, slots=True)
class EnergyUse:
    """One kind of work. joules: everything the counted zones took. joules_per_token_above_idle: without what an idle machine takes."""

    tokens: int
    seconds: float
    joules: float
    joules_per_token: float
    joules_per_token_above_idle: float


@dataclass(frozen=True, slots=True)
class Energy:
    """unavailable: why nothing was measured, None where it was. joules_per_token: of decoding, idle power included.

    zones: the counters that were added up. idle_watts: of the same zones before the container was loaded.
    """

    unavailable: str | None = None
    joules_per_token: float | None = None
    prefill: EnergyUse | None = None
    decode: EnergyUse | None = None
    idle_watts: float | None = None
    zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnergyZone:
    name: str
    counter: Path
    range_microjoules: int

    def read_microjoules(self) -> int:
        return int(self.counter.read_text(encoding="ascii"))


class EnergyMeter:
    """Joules since it was made, over all zones; `joules()` has to be called more often than a counter wraps."""

    def __init__(self, zones: tuple[EnergyZone, ...]) -> None:
        self.zones = zones
        self._last = [zone.read_microjoules() for zone in zones]
        self._microjoules = 0

    def joules(self) -> float:
        for index, zone in enumerate(self.zones):
            now = zone.read_microjoules()
            grown = now - self._last[index]
            # the counter starts at 0 again after its last value, range_microjoules
            self._microjoules += grown if grown >= 0 else grown + zone.range_microjoules + 1
            self._last[index] = now
        return self._microjoules / MICROJOULES


def find_zones(root: Path = POWERCAP) -> tuple[EnergyZone, ...] | str:
    """The packages and their memory, or why there is nothing to read."""
    packages = [
        folder
        for folder in sorted(root.glob("intel-rapl:*"))
        if folder.name.count(":") == 1 and not _text(folder / "name").startswith("psys")
    ]
    if not packages:
        return "unavailable: this machine has no RAPL counters (no intel-rapl zone in powercap)"
    zones = []
    for package in packages:
        name = _text(package / "name") or package.name
        parts = sorted(
            {*package.glob("intel-rapl:*"), *root.glob(f"{package.name}:*")}, key=lambda path: path.name
        )
        memory = {part.name: part for part in parts if _text(part / "name") == "dram"}
        found = [(name, package), *((f"{name} dram", part) for part in memory.values())]
        for label, folder in found:
            zone = _zone(label, folder)
            if isinstance(zone, str):
                return zone
            zones.append(zone)
    return tuple(zones)


def watts_when_idle(
    meter: EnergyMeter,
    *,
    seconds: float = IDLE_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """What the zones take while this process sleeps; others on the machine count too."""
    joules, start = meter.joules(), clock()
    sleep(seconds)
    return (meter.joules() - joules) / (clock() - start)


def energy_use(tokens: int, seconds: float, joules: float, *, idle_watts: float) -> EnergyUse:
    above = max(0.0, joules - idle_watts * seconds)
    return EnergyUse(tokens, seconds, joules, joules / tokens, above / tokens)


def _zone(label: str, folder: Path) -> EnergyZone | str:
    counter = folder / "energy_uj"
    try:
        limit = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        int(counter.read_text(encoding="ascii"))
    except PermissionError:
        return f"unavailable: no permission to read {counter} (root only since Linux 5.10)"
    except (OSError, ValueError) as error:
        return f"unavailable: {counter} cannot be read ({error})"
    return EnergyZone(label, counter, limit)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
