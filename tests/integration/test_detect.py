"""`edgeport devices detect --engines` and `edgeport bench --refine` with the real engines, on models of a few megabytes."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest

from edgeport.cli import main
from edgeport.cli.detect_engines import FORMATS, EngineProbe, EngineRates, probe_engines, usual_size
from edgeport.devices.catalog import load_profile, save_profile
from edgeport.devices.kernels import Fit
from edgeport.devices.probe import probe_host
from edgeport.errors import MissingExtra, UsageError
from edgeport.export.synthetic import SyntheticShape, pack_synthetic, synthetic_shapes, write_synthetic
from edgeport.runtimes.bench.kernel_probe import ProbeSteps
from edgeport.runtimes.engines import open_session
from edgeport.runtimes.session import SessionOptions

SIZE = 6_000_000
QUICK = ProbeSteps(decode_tokens=4, prompt_tokens=32, prompts=1, repetitions=20)
ATTEMPTS = 4
"""Under other load the times of such small models may contradict each other, which the fit says and refuses."""


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPORT_DEVICES", str(tmp_path / "devices"))
    return tmp_path / "devices"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, empty before and after."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def measured(probe: EngineProbe) -> EngineRates:
    for _ in range(ATTEMPTS):
        found = probe_engines(probe)
        assert len(found.fits) + len(found.absent) == len(probe.formats) * len(probe.bits)
        if not found.absent:
            return found
        assert all("contradict" in item.reason or "takes no longer" in item.reason for item in found.absent)
    pytest.fail(f"no fit in {ATTEMPTS} attempts: {found.absent}")


def check_rates(fit: Fit) -> None:
    kernel = fit.kernel
    assert 10**7 < kernel.decode_bandwidth_bytes_per_s < 10**13
    assert kernel.prefill_ops_per_s is not None and 10**7 < kernel.prefill_ops_per_s < 10**15
    assert 0 <= kernel.seconds_per_layer < 0.1 and 0 <= kernel.seconds_per_token < 0.1
    assert math.isfinite(fit.decode_residual)
    assert kernel.engine in kernel.source and "threads" in kernel.source + "threads"


@pytest.mark.parametrize("bits", [4, 8])
def test_a_random_model_is_the_same_in_every_engine(bits: int, tmp_path: Path) -> None:
    """Times of something that does not compute would mean nothing: three engines agree on its logits."""
    (tmp_path / "checkpoint").mkdir()
    checkpoint = write_synthetic(SyntheticShape("test", 256, 2), bits, tmp_path / "checkpoint")
    logits = {}
    for name in FORMATS:
        (tmp_path / name).mkdir()
        path = pack_synthetic(checkpoint, name, tmp_path / name)
        session = open_session(name, path, SessionOptions(threads=1, context_length=64, exact=True))
        logits[name] = session.feed([1, 300, 77, 2])[0]
        session.close()
    reference = logits.pop("onnx")
    assert 0.1 < reference.std() < 10
    for found in logits.values():
        assert found == pytest.approx(reference, abs=0.02)


def test_sizes_separate_bytes_from_layers() -> None:
    """Two models of about the same bytes and different layers, one with fewer key/value heads, one with about twice the bytes."""
    for bits in (4, 8):
        for size in (SIZE, 100_000_000, 400_000_000):
            wide, narrow, grouped, large = synthetic_shapes(size, bits)
            assert narrow.layers >= wide.layers + 4 and large.layers == 2 * wide.layers
            assert grouped.hidden_size == narrow.hidden_size <= wide.hidden_size == large.hidden_size
            assert grouped.spec.kv_heads < narrow.spec.kv_heads, (
                "the cache's bytes and products cannot be told apart"
            )
            decoder = wide.spec.parameters() - 2 * 4096 * wide.hidden_size
            assert 0.5 * size < decoder * (bits + 0.5) / 8 < 1.6 * size


def test_one_engine_is_fitted_or_refused_and_nothing_is_left_behind(scratch: Path) -> None:
    """Beside other load the times of tiny models may contradict each other; the slow test below wants a fit."""
    found = probe_engines(EngineProbe(SIZE, threads=1, formats=("onnx",), bits=(8,), steps=QUICK))
    for fit in found.fits:
        assert (fit.kernel.engine, fit.kernel.bits) == ("onnxruntime", 8)
        check_rates(fit)
    for item in found.absent:
        assert "contradict" in item.reason or "takes no longer" in item.reason
    assert len(found.fits) + len(found.absent) == 1
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_every_engine_and_precision_is_fitted() -> None:
    found = measured(EngineProbe(SIZE, threads=1, steps=QUICK))
    kinds = {(fit.kernel.engine, fit.kernel.bits) for fit in found.fits}
    assert kinds == {(engine, bits) for engine in FORMATS.values() for bits in (4, 8)}
    for fit in found.fits:
        check_rates(fit)


@pytest.mark.slow
def test_the_command_saves_a_profile_with_kernels(devices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["devices", "detect", "--engines", "--size", "4MB", "--seconds", "0.1", "--save", "box", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    kept = {(item["engine"], item["bits"]) for item in document["profile"]["kernels"]}
    told = {(item["engine"], item["bits"]) for item in document["engines"]["absent"]}
    assert kept | told == {(engine, bits) for engine in FORMATS.values() for bits in (4, 8)}
    assert {(item.engine, item.bits) for item in load_profile("box").kernels} == kept


def test_an_interrupt_leaves_no_files(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        assert any(scratch.rglob("model.onnx.data"))
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeport.runtimes.isolation.run_isolated", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe_engines(EngineProbe(SIZE, threads=1, formats=("onnx",), bits=(4,), steps=QUICK))
    assert list(scratch.iterdir()) == []


def test_a_missing_engine_is_told_and_none_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str) -> str | None:
        return None if name == "onnx" and usable else f"{name} needs a package"

    monkeypatch.setattr("edgeport.runtimes.engines.unavailable_because", unavailable)
    usable = False
    with pytest.raises(MissingExtra, match="no engine can be measured here: gguf needs a package"):
        probe_engines(EngineProbe(SIZE, threads=1))
    usable = True
    found = probe_engines(EngineProbe(SIZE, threads=1, bits=(), steps=QUICK))
    assert [item.engine for item in found.absent] == ["llama.cpp", "openvino"]


def test_a_full_disk_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="TMPDIR|need .* are free"):
        probe_engines(EngineProbe(10**16, threads=1))


def test_the_usual_size_leaves_the_cache_and_fits_the_memory() -> None:
    assert usual_size(None, 10**11) == 100 * 10**6
    assert usual_size(50 * 10**6, 10**11) == 150 * 10**6
    assert usual_size(2**30, 10**11) == 400 * 10**6, "more would take too long"
    assert usual_size(None, 6 * 10**8) == 5 * 10**7, "a small machine must not run out of memory"


def test_names_and_sizes_are_checked_before_the_first_second(devices: Path) -> None:
    save_profile(probe_host(seconds=0.05), "box")
    assert main(["devices", "detect", "--save", "box"]) == 2
    assert main(["devices", "detect", "--size", "1MB"]) == 2
    assert main(["devices", "edge", "--engines"]) == 2


def test_bench_refines_a_saved_profile(
    llama_artifact: Path, devices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = probe_host(seconds=0.05)
    save_profile(profile, "box")
    words = [
        "bench",
        str(llama_artifact),
        "--format",
        "onnx",
        "-p",
        "16",
        "-n",
        "4",
        "-r",
        "2",
        "--no-memory",
    ]
    assert main([*words, "--refine", "box"]) == 0
    told = capsys.readouterr().err
    # A model this small lies in the cache of any machine that has one.
    assert ("not used for box: onnxruntime" in told) == (load_profile("box").kernels == ())
    assert main([*words, "--refine", "raspberry-pi-5-8gb"]) == 2
    assert main([*words, "--refine", "box", "--memory", "1GiB"]) == 2
    assert "no saved profile of yours" in capsys.readouterr().err
