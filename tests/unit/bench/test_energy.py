"""Joules from a powercap tree of plain files: which zones count, wraparound, permissions, and joules per token of a real engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeport.manifest import from_json, read_manifest, to_json
from edgeport.runtimes.bench.energy import (
    Energy,
    EnergyMeter,
    EnergyZone,
    energy_use,
    find_zones,
    watts_when_idle,
)
from edgeport.runtimes.bench.energy_run import energy_of_session
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import Logits, Session, SessionOptions

RANGE = 262_143_328_850


def zone(root: Path, folder: str, name: str, microjoules: int = 0) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


def add(counter: Path, microjoules: int) -> None:
    """What the hardware does: count up, and start again at 0 after the last value."""
    counter.write_text(str((int(counter.read_text()) + microjoules) % (RANGE + 1)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two packages as a server has them: parts of a package and the platform must not be counted again."""
    for index in (0, 1):
        zone(tmp_path, f"intel-rapl:{index}", f"package-{index}")
        zone(tmp_path, f"intel-rapl:{index}:0", "core")
        zone(tmp_path, f"intel-rapl:{index}:1", "dram")
    zone(tmp_path, "intel-rapl:2", "psys")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    return tmp_path


def zones_of(root: Path) -> tuple[EnergyZone, ...]:
    found = find_zones(root)
    assert not isinstance(found, str), found
    return found


def test_packages_and_their_memory_count_and_nothing_twice(tree: Path) -> None:
    names = [item.name for item in zones_of(tree)]
    assert names == ["package-0", "package-0 dram", "package-1", "package-1 dram"]
    meter = EnergyMeter(zones_of(tree))
    for folder in sorted(tree.iterdir()):
        add(folder / "energy_uj", 1_000_000)
    assert meter.joules() == 4.0


def test_memory_below_its_package_is_found_too(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path / "intel-rapl:0", "intel-rapl:0:2", "dram")
    assert [item.name for item in zones_of(tmp_path)] == ["package-0", "package-0 dram"]


def test_a_counter_that_wraps_goes_on_counting(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    meter = EnergyMeter(zones_of(tmp_path))
    for _ in range(3):
        add(counter, 1_500_000)
        meter.joules()
    assert int(counter.read_text()) < 3_000_000, "it has wrapped"
    assert meter.joules() == pytest.approx(4.5)


def test_what_cannot_be_read_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    assert "no RAPL counters" in str(find_zones(tmp_path))
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    counter.write_text("")
    assert "cannot be read" in str(find_zones(tmp_path))


def test_permission_denied_says_who_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    read = Path.read_text

    def guarded(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, encoding, errors)

    monkeypatch.setattr(Path, "read_text", guarded)
    assert "root only since Linux 5.10" in str(find_zones(tmp_path))


def test_idle_power_is_told_apart(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        add(counter, round(seconds * 6_000_000))

    meter = EnergyMeter(zones_of(tmp_path))
    assert watts_when_idle(meter, seconds=2.0, clock=lambda: now[0], sleep=sleep) == pytest.approx(6.0)
    used = energy_use(100, 10.0, 90.0, idle_watts=6.0)
    assert (used.joules_per_token, used.joules_per_token_above_idle) == (0.9, pytest.approx(0.3))


class BurningSession:
    """A real session whose tokens cost energy: 2 mJ in a prompt, 30 mJ one by one."""

    def __init__(self, session: Session, counter: Path) -> None:
        self._session, self._counter = session, counter
        self.vocab_size, self.context_length = session.vocab_size, session.context_length
        self.closed = False

    @property
    def position(self) -> int:
        return self._session.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        add(self._counter, 2000 * len(tokens) if len(tokens) > 1 else 30_000)
        return self._session.feed(tokens, all_logits=all_logits)

    def rewind(self, position: int) -> None:
        self._session.rewind(position)

    def close(self) -> None:
        self.closed = True
        self._session.close()


def test_prompts_and_decoding_have_their_own_joules_per_token(packed_dir: Path, tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 100_000)
    path = packed_dir / read_manifest(packed_dir).container("gguf").entry_point
    opened: list[BurningSession] = []

    def burning() -> Session:
        session = open_session("gguf", path, SessionOptions(threads=1, context_length=64))
        opened.append(BurningSession(session, counter))
        return opened[0]

    energy = energy_of_session(
        burning,
        Workload(n_prompt=16, n_gen=4, n_depth=8),
        root=tmp_path,
        idle_seconds=0.01,
        measured_seconds=0.05,
    )
    assert energy.unavailable is None
    assert energy.prefill is not None
    assert energy.decode is not None
    assert energy.prefill.joules_per_token == pytest.approx(0.002)
    assert energy.decode.joules_per_token == energy.joules_per_token == pytest.approx(0.03)
    assert energy.idle_watts == 0.0
    assert energy.decode.seconds >= 0.05
    assert opened[0].closed
    assert from_json(Energy, to_json(energy)) == energy


def test_without_counters_no_session_is_opened(tmp_path: Path) -> None:
    def never() -> Session:
        raise AssertionError("opened for nothing")

    assert "no RAPL" in str(energy_of_session(never, Workload(), root=tmp_path).unavailable)
