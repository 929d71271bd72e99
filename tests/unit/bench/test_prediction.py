"""The prediction that stands beside the measurement: whose rates, which container, what the settings change."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from edgeport.devices.bandwidth import MemoryBandwidth
from edgeport.devices.catalog import save_profile
from edgeport.devices.probe import host_profile, read_host
from edgeport.devices.profile import DeviceProfile, KernelRates
from edgeport.manifest import from_json, read_manifest, to_json, write_manifest
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.prediction import Prediction, machine_profile, predict

SHORT = Workload(n_prompt=32, n_gen=16)


@pytest.fixture(autouse=True)
def own_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path / "devices"))


def here(threads: int = 2) -> DeviceProfile:
    profile = host_profile(read_host(), MemoryBandwidth(20_000_000_000, threads, (), 0))
    return dataclasses.replace(profile, cores=threads)


def test_a_saved_profile_of_this_machine_is_used_and_another_machines_is_not() -> None:
    measured = machine_profile(2, 20e9)
    assert measured is not None
    assert (measured.name, measured.cores, measured.sustained_bandwidth_bytes_per_s) == (
        "host",
        2,
        20_000_000_000,
    )
    elsewhere = dataclasses.replace(here(), description="this machine: Cortex-A76, 2 threads")
    save_profile(elsewhere, "board")
    save_profile(here(threads=1), "one-thread")
    assert getattr(machine_profile(2, 20e9), "name", None) == "host"
    save_profile(here(), "plain")
    kernels = (KernelRates("llama.cpp", 4, 11_000_000_000, source="detect"),)
    save_profile(dataclasses.replace(here(), kernels=kernels), "with-kernels")
    assert getattr(machine_profile(2, 20e9), "name", None) == "with-kernels"
    assert getattr(machine_profile(2, None), "name", None) == "with-kernels"


def test_without_a_profile_or_a_bandwidth_nothing_is_predicted() -> None:
    assert machine_profile(2, None) is None


def test_every_container_has_an_interval_that_its_settings_move(packed_dir: Path) -> None:
    profile = here()
    for name in ("gguf", "onnx", "openvino"):
        found = predict(packed_dir, name, SHORT, 48, profile)
        assert found is not None
        assert found.memory_low_bytes < found.memory_bytes < found.memory_high_bytes
        assert found.decode_low_tokens_per_s < found.decode_tokens_per_s < found.decode_high_tokens_per_s
        assert found.profile == "host"
        assert "GB/s" in found.basis
        deep = predict(packed_dir, name, dataclasses.replace(SHORT, n_depth=200), 248, profile)
        assert deep is not None
        assert deep.decode_tokens_per_s < found.decode_tokens_per_s
        assert deep.memory_bytes > found.memory_bytes
        assert from_json(Prediction, to_json(found)) == found


def test_a_container_of_ggufs_own_scheme_is_predicted_by_its_own_size(
    packed_dir: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(packed_dir, tmp_path / "native"))
    manifest = read_manifest(folder)
    entry = manifest.container("gguf")
    larger = tuple(dataclasses.replace(item, size_bytes=4 * item.size_bytes) for item in entry.files)
    native = dataclasses.replace(entry, format="gguf-q8_0", files=larger, size_bytes=4 * entry.size_bytes)
    write_manifest(dataclasses.replace(manifest, containers=(*manifest.containers, native)), folder)
    plain = predict(folder, "gguf", SHORT, 48, here())
    own = predict(folder, "gguf-q8_0", SHORT, 48, here())
    assert plain is not None
    assert own is not None
    assert own.decode_tokens_per_s < plain.decode_tokens_per_s
    assert own.memory_bytes > plain.memory_bytes
    assert predict(folder, "bitsandbytes-nf4", SHORT, 48, here()) is None
