"""Rates of an emulated device: nothing changes on a machine like this one, and what cannot be scaled is left out with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeport.devices.bandwidth import MemoryBandwidth
from edgeport.devices.catalog import load_profile
from edgeport.devices.probe import host_profile, read_host
from edgeport.devices.profile import DeviceProfile
from edgeport.manifest import Manifest
from edgeport.runtimes.bench.environment import capture
from edgeport.runtimes.bench.roofline import Roofline, Verdict
from edgeport.runtimes.bench.scaled import HERE, REAL, SCALED, EmulationReport, emulation_report
from edgeport.runtimes.bench.speed import Rate, Speed
from edgeport.runtimes.emulate import Emulation

BANDWIDTH = 10 * 10**9
FACTS = read_host()


def speed(verdict: Verdict = "measured") -> Speed:
    return Speed(
        format="gguf", engine="llama.cpp", engine_version=None, weights_id="", measured_at="", threads=1, context_length=640,
        n_prompt=512, n_gen=128, n_depth=0, repetitions=1, seed=0, load_ms=1.0, ttft_cold_ms=None, ttft_warm_ms=None,
        prefill=Rate("pp512", 200.0, 0.0, 200.0, 0.0, False, ()),
        decode=Rate("tg128", 40.0, 0.0, 40.0, 0.0, False, ()), inter_token=None, memory=None,
        roofline=Roofline(1, 1, 1.0, 1.0, None, verdict), environment=capture(),
    )  # fmt: skip


def like_this_machine() -> DeviceProfile:
    here = host_profile(FACTS, MemoryBandwidth(BANDWIDTH, FACTS.cpu.cores, (), 0))
    return replace(here, cores=FACTS.cpu.cores, int8_ops_per_s=10**12)


def scaled(
    manifest: Manifest, device: DeviceProfile | None, *, verdict: Verdict = "measured"
) -> EmulationReport:
    emulation = Emulation("device", 4, tuple(range(FACTS.cpu.cores)), 2**30, "watch")
    return emulation_report(emulation, device, manifest, [speed(verdict)], BANDWIDTH)


def test_a_device_like_this_machine_has_its_rates(measured_manifest: Manifest) -> None:
    (found,) = scaled(measured_manifest, like_this_machine()).containers
    assert found.decode is not None
    assert found.decode.tokens_per_s == pytest.approx(40.0)
    assert found.decode.low_tokens_per_s < 40.0 < found.decode.high_tokens_per_s


def test_decoding_follows_the_bandwidth_and_prompts_the_arithmetic(measured_manifest: Manifest) -> None:
    device = like_this_machine()
    (one,) = scaled(measured_manifest, device).containers
    wide = replace(
        device, memory_bandwidth_bytes_per_s=2 * BANDWIDTH, sustained_bandwidth_bytes_per_s=2 * BANDWIDTH
    )
    (twice,) = scaled(measured_manifest, wide).containers
    assert one.decode is not None and twice.decode is not None
    assert 1.3 < twice.decode.tokens_per_s / one.decode.tokens_per_s <= 2.0
    (fast,) = scaled(measured_manifest, replace(device, int8_ops_per_s=2 * 10**12)).containers
    assert one.prefill is not None and fast.prefill is not None
    assert 1.3 < fast.prefill.tokens_per_s / one.prefill.tokens_per_s <= 2.0
    assert fast.decode is not None and fast.decode.tokens_per_s == pytest.approx(one.decode.tokens_per_s)


def test_what_read_the_cache_is_not_scaled(measured_manifest: Manifest) -> None:
    (found,) = scaled(measured_manifest, like_this_machine(), verdict="cache-resident").containers
    assert found.decode is None and "cache" in found.basis


def test_a_gpu_is_not_scaled_from_a_processor(measured_manifest: Manifest) -> None:
    (found,) = scaled(measured_manifest, load_profile("workstation-gpu")).containers
    assert (found.decode, found.prefill) == (None, None) and "on its GPU" in found.basis


def test_a_memory_limit_alone_scales_nothing(measured_manifest: Manifest) -> None:
    report = scaled(measured_manifest, None)
    assert report.containers == ()
    assert {item.origin for item in report.figures} == {REAL, HERE}
    assert SCALED in {item.origin for item in scaled(measured_manifest, like_this_machine()).figures}
