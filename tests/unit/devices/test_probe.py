"""Threads, memory and bandwidth of this machine, and of machines that exist as files only."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from edgeport.cli.detect_text import surroundings
from edgeport.devices.bandwidth import MemoryBandwidth, measure_memory_bandwidth
from edgeport.devices.known_models import load_known
from edgeport.devices.probe import available_threads, host_profile, probe_host, read_host
from edgeport.devices.profile_file import dump_profile, parse_profile
from edgeport.devices.speed import estimate_speed

if TYPE_CHECKING:
    from tests.unit.devices.conftest import FakeRoot

MEMINFO = "MemTotal:        8000000 kB\nMemFree:         1000000 kB\nMemAvailable:    6000000 kB\n"
QUOTA = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


@pytest.fixture
def first_processors() -> Iterator[None]:
    """Pin this process to what it has, so that the fake trees below can describe it."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("199999", 1), ("max", None)])
def test_threads_respect_the_quota_rounded_down(
    quota: str, expected: int | None, fake_root: FakeRoot
) -> None:
    root = fake_root({**QUOTA, "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    processors = len(os.sched_getaffinity(0))
    assert available_threads(root) == (processors if expected is None else expected)


def test_threads_respect_the_affinity(first_processors: None) -> None:
    one = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {one})
    assert available_threads() == 1


def test_memory_limit_of_the_group_replaces_the_machine(fake_root: FakeRoot) -> None:
    limit = 2**30
    root = fake_root(
        {
            **QUOTA,
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/memory.max": f"{limit}\n",
            "sys/fs/cgroup/memory.current": "73741824\n",
        }
    )
    facts = read_host(root)
    assert (facts.ram_bytes, facts.available_bytes) == (limit, 1_000_000_000)


def test_memory_without_a_limit_is_the_machine(fake_root: FakeRoot) -> None:
    facts = read_host(fake_root({"proc/meminfo": MEMINFO}))
    assert (facts.ram_bytes, facts.available_bytes) == (8000000 * 1024, 6000000 * 1024)


def test_bandwidth_is_a_plausible_number() -> None:
    result = measure_memory_bandwidth(2, seconds=0.3)
    assert 10**9 < result.read_bytes_per_s < 10**12
    assert [point.threads for point in result.points] == [1, 2]
    assert result.read_bytes_per_s == max(point.read_bytes_per_s for point in result.points)
    assert result.buffer_bytes >= 256 * 2**20


def test_bandwidth_stays_small_on_a_small_machine() -> None:
    result = measure_memory_bandwidth(1, seconds=0.05, available_bytes=64 * 2**20)
    assert result.buffer_bytes == 16 * 2**20


def test_host_profile_is_usable_like_any_other() -> None:
    profile = probe_host(seconds=0.1)
    assert profile.name == "host"
    assert profile.sustained_bandwidth_bytes_per_s == profile.memory_bandwidth_bytes_per_s
    assert parse_profile(tomllib.loads(dump_profile(profile)), name="host", source="text") == profile


def test_an_edge_host_gets_a_short_context(fake_root: FakeRoot) -> None:
    bandwidth = MemoryBandwidth(10**10, 1, (), 2**28)
    small = host_profile(read_host(fake_root({"proc/meminfo": "MemTotal: 4000000 kB\n"})), bandwidth)
    assert (small.tier, small.context_length) == ("edge", 2048)


PROCESSOR = {
    "proc/cpuinfo": "flags : fpu avx2 avx512f avx512_vnni hypervisor\nmodel name : Test\ncpu MHz : 2000.0\n",
    "proc/meminfo": MEMINFO,
}


def in_container(quota: str) -> dict[str, str]:
    """A container of two processors and a gigabyte on a larger machine, as its own /proc and /sys show it."""
    return {
        **QUOTA,
        **PROCESSOR,
        ".dockerenv": "",
        "sys/fs/cgroup/cpu.max": f"{quota} 100000\n",
        "sys/fs/cgroup/memory.max": f"{2**30}\n",
        "sys/fs/cgroup/memory.current": "0\n",
    }


def test_a_container_with_a_quota_is_the_smaller_machine(fake_root: FakeRoot) -> None:
    """Threads, memory and arithmetic are the container's; what surrounds it is told."""
    bandwidth = MemoryBandwidth(10**10, 1, (), 2**28)
    facts = read_host(fake_root(in_container("150000")))
    assert (facts.container, facts.virtual, facts.threads, facts.ram_bytes) == ("docker", True, 1, 2**30)
    profile = host_profile(facts, bandwidth)
    assert (profile.cores, profile.tier, profile.ram_bytes) == (1, "edge", 2**30)
    assert profile.int8_ops_per_s == 2 * 10**9 * 128, "of one core, not of all"
    lines = surroundings(facts)
    assert lines[0] == "inside a container (docker)" and "virtual machine" in lines[1]
    assert lines[2].startswith("the control group allows 1.5 of ") and "1 GiB of memory" in lines[3]
    estimate = estimate_speed(load_known("smollm2-135m"), 90_000_000, 4, profile, "llama.cpp")
    assert "measured" in estimate.basis and estimate.prefill_tokens_per_s


def test_without_limits_nothing_surrounds_it(fake_root: FakeRoot) -> None:
    facts = read_host(fake_root({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user.slice\n"}))
    assert surroundings(facts) == []


def test_a_processor_is_as_fast_as_it_was_seen_to_be(fake_root: FakeRoot) -> None:
    bandwidth = MemoryBandwidth(10**10, 1, (), 2**28)
    known, unknown = (
        read_host(fake_root(PROCESSOR)),
        read_host(fake_root({"proc/meminfo": MEMINFO, "proc/cpuinfo": ""})),
    )
    peak = host_profile(known, bandwidth).int8_ops_per_s
    assert peak is not None
    assert host_profile(known, bandwidth, int8_ops_per_s=peak // 2).int8_ops_per_s == peak
    assert host_profile(known, bandwidth, int8_ops_per_s=2 * peak).int8_ops_per_s == 2 * peak
    assert host_profile(unknown, bandwidth).int8_ops_per_s is None, "told as unknown, not guessed"


def test_importing_devices_probes_nothing_and_needs_only_the_standard_library() -> None:
    """A fresh interpreter without site-packages imports every module; opening files under /proc and /sys is refused."""
    code = (
        "import sys, pathlib\n"
        "def hook(event, args):\n"
        "    if event == 'open' and str(args[0]).startswith(('/proc', '/sys')): raise SystemExit(f'opened {args[0]}')\n"
        "    if event == 'subprocess.Popen': raise SystemExit('started a program')\n"
        "sys.addaudithook(hook)\n"
        "import importlib, pkgutil, edgeport.devices\n"
        "for module in pkgutil.iter_modules(edgeport.devices.__path__): importlib.import_module('edgeport.devices.' + module.name)\n"
        "foreign = [name for name in ('numpy', 'torch', 'psutil') if name in sys.modules]\n"
        "sys.exit(f'imported {foreign}' if foreign else 0)\n"
    )
    root = os.path.dirname(os.path.dirname(__import__("edgeport").__file__))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
