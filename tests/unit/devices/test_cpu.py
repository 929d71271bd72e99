"""Cores, instruction sets and caches of machines described by their /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeport.devices.cpu import affinity, physical_cores, read_cpu

if TYPE_CHECKING:
    from tests.unit.devices.conftest import FakeRoot

CPU = "sys/devices/system/cpu/cpu"


def topology(*cores: tuple[int, int], siblings: dict[int, str] | None = None) -> dict[str, str]:
    """One logical processor per (package, core)."""
    files = {}
    for number, (package, core) in enumerate(cores):
        files[f"{CPU}{number}/topology/core_id"] = f"{core}\n"
        files[f"{CPU}{number}/topology/physical_package_id"] = f"{package}\n"
        if siblings is not None:
            files[f"{CPU}{number}/topology/thread_siblings_list"] = siblings[number]
    return files


def cache(processor: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"{CPU}{processor}/cache/index{index}/"
    return {
        folder + "level": f"{level}\n",
        folder + "type": kind + "\n",
        folder + "size": size + "\n",
        folder + "shared_cpu_list": shared + "\n",
    }


def test_hyper_threads_count_once(fake_root: FakeRoot) -> None:
    root = fake_root(topology((0, 0), (0, 1), (0, 0), (0, 1)))
    assert physical_cores(root, range(4)) == 2
    assert physical_cores(root, [0, 2]) == 1, "both threads of one core"
    assert physical_cores(root, [0, 1]) == 2


def test_two_sockets_may_number_their_cores_alike(fake_root: FakeRoot) -> None:
    assert physical_cores(fake_root(topology((0, 0), (1, 0))), range(2)) == 2


def test_clusters_of_small_boards_number_cores_anew(fake_root: FakeRoot) -> None:
    root = fake_root(topology((0, 0), (0, 0), siblings={0: "0\n", 1: "1\n"}))
    assert physical_cores(root, range(2)) == 2


def test_without_topology_each_processor_is_a_core(fake_root: FakeRoot) -> None:
    assert physical_cores(fake_root({"proc/cpuinfo": ""}), range(3)) == 3


def test_x86_flags_cache_and_rate(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/cpuinfo": "model name\t: Test CPU\nflags\t\t: fpu sse2 avx avx2 fma f16c avx_vnni bf16\ncpu MHz\t\t: 2000.0\n",
            **topology((0, 0), (0, 1)),
            **cache(0, 0, 1, "Data", "32K", "0"),
            **cache(0, 1, 1, "Instruction", "64K", "0"),
            **cache(0, 2, 3, "Unified", "12288K", "0-1"),
            **cache(1, 2, 3, "Unified", "12288K", "0-1"),
        }
    )
    cpu = read_cpu(root, range(2))
    assert cpu.model == "Test CPU"
    assert {"avx", "avx2", "fma", "f16c", "avx_vnni"} <= set(cpu.isa)
    assert cpu.last_level_cache_bytes == 12 * 2**20, "a shared cache counts once"
    assert cpu.int8_ops_per_s == 2 * 2_000_000_000 * 128


def test_arm_features_get_the_names_of_the_profiles(fake_root: FakeRoot) -> None:
    root = fake_root(
        {
            "proc/cpuinfo": "Features\t: fp asimd aes fphp asimdhp asimddp i8mm\nModel\t\t: Raspberry Pi 5\n",
            f"{CPU}0/cpufreq/cpuinfo_max_freq": "2400000\n",
            **topology((0, 0), (0, 1), (0, 2), (0, 3)),
        }
    )
    cpu = read_cpu(root, range(4))
    assert cpu.architecture == "aarch64"
    assert cpu.isa == ("neon", "fp16", "dotprod", "i8mm")
    assert cpu.model == "Raspberry Pi 5"
    assert cpu.clock_hz == 2_400_000_000


def test_nothing_known_is_said_as_none(fake_root: FakeRoot) -> None:
    cpu = read_cpu(fake_root({"proc/cpuinfo": ""}), range(1))
    assert (cpu.isa, cpu.last_level_cache_bytes, cpu.int8_ops_per_s) == ((), None, None)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_this_machine() -> None:
    cpu = read_cpu()
    assert 1 <= cpu.cores <= len(os.sched_getaffinity(0)) == len(affinity())
    text = Path("/proc/cpuinfo").read_text()
    assert all(flag in text for flag in cpu.isa if flag.startswith("avx"))
