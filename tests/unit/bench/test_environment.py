"""The environment on a made-up machine: what cannot be read is unavailable, not zero."""

from __future__ import annotations

import json
from pathlib import Path

from edgeport.manifest import from_json, to_json
from edgeport.runtimes.bench.environment import Environment, capture
from edgeport.runtimes.bench.memory import sample_memory

CPUINFO = "processor\t: 0\nmodel name\t: Example 3000\nflags\t\t: fpu avx2 fma avx512_vnni\n"
MEMINFO = "MemTotal:        8000000 kB\nMemAvailable:    7000000 kB\n"


def machine(root: Path) -> Path:
    files = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": MEMINFO,
        "proc/loadavg": "1.25 0.80 0.50 2/345 6789\n",
        "proc/1/cgroup": "0::/kubepods/burstable/pod1\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_full_machine(tmp_path: Path) -> None:
    found = capture(["numpy", "no-such-package"], root=machine(tmp_path))
    assert found.cpu_model == "Example 3000"
    assert "avx512_vnni" in found.isa
    assert (found.governor, found.load_average, found.container) == ("powersave", 1.25, "kubernetes")
    assert found.operating_system == "Debian GNU/Linux 12"
    assert found.ram_bytes == 8_000_000 * 1024
    assert len(found.packages) == 1
    assert found.packages[0].startswith("numpy ")


def test_what_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO, encoding="utf-8")
    found = capture(root=tmp_path)
    assert (found.governor, found.load_average, found.last_level_cache_bytes) == (None, None, None)
    rows = dict(found.rows())
    assert rows["Governor"] == rows["Load at the start"] == rows["Last-level cache"] == "unavailable"
    assert "no limit" in rows["Cores"]


def test_it_survives_json(tmp_path: Path) -> None:
    found = capture(["numpy"], root=machine(tmp_path))
    assert from_json(Environment, json.loads(json.dumps(to_json(found)))) == found


def test_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = sample_memory()
    held = bytearray(b"x" * (64 << 20))
    after = sample_memory()
    assert before.anonymous_bytes is not None
    assert after.anonymous_bytes is not None
    assert after.peak_resident_bytes is not None
    assert after.resident_bytes is not None
    assert after.anonymous_bytes - before.anonymous_bytes >= 60 << 20
    assert after.peak_resident_bytes >= after.resident_bytes - (4 << 20)
    assert len(held)


def test_mapped_pages_are_not_anonymous(tmp_path: Path) -> None:
    (tmp_path / "smaps_rollup").write_text(
        "Rss:  300 kB\nPss: 200 kB\nAnonymous:  100 kB\n", encoding="ascii"
    )
    (tmp_path / "status").write_text("VmPeak: 900 kB\nVmHWM:\t     400 kB\n", encoding="ascii")
    found = sample_memory(tmp_path)
    assert found.resident_bytes == 300 * 1024
    assert found.anonymous_bytes == 100 * 1024
    assert found.mapped_file_bytes == 200 * 1024
    assert found.peak_resident_bytes == 400 * 1024


def test_memory_of_a_system_without_proc_is_unknown(tmp_path: Path) -> None:
    found = sample_memory(tmp_path)
    assert (found.resident_bytes, found.mapped_file_bytes, found.peak_resident_bytes) == (None, None, None)
