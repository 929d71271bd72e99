"""Verdicts: what fits, what does not, and that following the advice makes it fit."""

from __future__ import annotations

import dataclasses
import re

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.match import fits, require_fit
from edgeport.devices.memory import Workload, estimate_memory
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import shape_of
from edgeport.errors import DoesNotFit, UsageError
from edgeport.manifest import ModelFacts

GIB = 2**30
FOUR_FORMATS = {"gguf": 300 * 2**20, "onnx": 310 * 2**20, "openvino": 305 * 2**20, "safetensors": 320 * 2**20}
LLAMA_8B_INT4 = {"gguf": 4_800_000_000}


def with_ram(profile: DeviceProfile, usable_bytes: int) -> DeviceProfile:
    return dataclasses.replace(profile, ram_bytes=2 * usable_bytes, usable_ram_bytes=usable_bytes)


def test_a_small_model_fits_the_edge_in_every_format(qwen25_05b: ModelFacts, edge: DeviceProfile) -> None:
    verdicts = fits(qwen25_05b, FOUR_FORMATS, edge, 2048)
    assert [fit.format for fit in verdicts] == ["gguf", "onnx", "openvino", "safetensors"], (
        "preferred engine first"
    )
    assert all(fit.fits and not fit.advice for fit in verdicts)
    assert [fit.offered for fit in verdicts] == [True, True, True, False]
    assert require_fit(qwen25_05b, FOUR_FORMATS, edge, 2048) == verdicts


def test_a_large_model_is_refused_with_the_numbers(llama31_8b: ModelFacts, edge: DeviceProfile) -> None:
    with pytest.raises(DoesNotFit) as caught:
        require_fit(llama31_8b, LLAMA_8B_INT4, edge, 2048)
    message = caught.value.message
    assert "'edge'" in message
    assert "3 GiB are usable" in message
    assert re.search(r"needs [\d.]+ GiB \(weights 4\.47 GiB, KV cache 256 MiB for 2048 tokens", message)
    assert caught.value.exit_code == 1
    assert caught.value.hint


def test_the_solved_context_is_the_largest_that_fits(llama31_8b: ModelFacts, pi5: DeviceProfile) -> None:
    wanted = 65536
    (fit,) = fits(llama31_8b, LLAMA_8B_INT4, pi5, wanted)
    assert not fit.fits
    assert 0 < fit.largest_context < wanted
    assert f"lower the context to {fit.largest_context} tokens" in fit.advice
    (lower,) = fits(llama31_8b, LLAMA_8B_INT4, pi5, fit.largest_context)
    assert lower.fits
    (one_more,) = fits(llama31_8b, LLAMA_8B_INT4, pi5, fit.largest_context + 1)
    assert not one_more.fits


@pytest.mark.parametrize("format_name", ["gguf", "onnx", "openvino"])
def test_the_solved_bits_make_it_fit(format_name: str, llama31_8b: ModelFacts, edge: DeviceProfile) -> None:
    profile = with_ram(edge, 8 * GIB)
    (fit,) = fits(llama31_8b, {format_name: 8_500_000_000}, profile, 2048)
    match = next(
        m for line in fit.advice if (m := re.search(r"at most ([\d.]+) bits each instead of 8\.5", line))
    )
    bits = float(match.group(1))
    (fewer,) = fits(llama31_8b, {format_name: int(llama31_8b.parameters * bits / 8)}, profile, 2048)
    (more,) = fits(llama31_8b, {format_name: int(llama31_8b.parameters * (bits + 0.1) / 8)}, profile, 2048)
    assert fewer.fits and not more.fits


def test_the_reference_reads_float32(qwen25_05b: ModelFacts, edge: DeviceProfile) -> None:
    packed, unpacked = fits(qwen25_05b, {"gguf": 300 * 2**20, "safetensors": 300 * 2**20}, edge, 2048)
    assert unpacked.engine == "reference"
    assert unpacked.speed.bytes_per_token == 4 * qwen25_05b.parameters
    assert packed.speed.bytes_per_token == 300 * 2**20


def test_a_hopeless_model_gets_a_size_instead(llama31_8b: ModelFacts, edge: DeviceProfile) -> None:
    (fit,) = fits(llama31_8b, LLAMA_8B_INT4, with_ram(edge, GIB), 2048)
    assert fit.largest_context == 0
    assert any(line.startswith("take a model of at most") for line in fit.advice)


def test_not_even_the_engine_fits(llama31_8b: ModelFacts, edge: DeviceProfile) -> None:
    with pytest.raises(DoesNotFit) as caught:
        require_fit(llama31_8b, LLAMA_8B_INT4, with_ram(edge, 64 * 2**20), 2048)
    assert caught.value.hint == "choose a device with more memory, a smaller model, or prune it"


def test_one_fitting_format_is_enough_but_only_if_the_device_runs_it(
    qwen25_05b: ModelFacts, edge: DeviceProfile
) -> None:
    need = estimate_memory(
        shape_of(qwen25_05b), FOUR_FORMATS["gguf"], "llama.cpp", Workload(2048)
    ).required_bytes
    profile = with_ram(edge, need)
    verdicts = {fit.format: fit.fits for fit in require_fit(qwen25_05b, FOUR_FORMATS, profile, 2048)}
    assert verdicts["gguf"] and not verdicts["onnx"]
    only_openvino = dataclasses.replace(profile, engines=("openvino",))
    with pytest.raises(DoesNotFit, match="openvino in openvino needs"):
        require_fit(qwen25_05b, FOUR_FORMATS, only_openvino, 2048)


def test_the_gpu_s_memory_counts_for_its_engines(llama31_8b: ModelFacts) -> None:
    workstation = load_profile("workstation-gpu")
    (fit,) = fits(llama31_8b, {"safetensors": 16_070_000_000}, workstation, 8192)
    assert (fit.engine, fit.on_gpu, fit.available_bytes) == ("vllm", True, int(0.9 * 24 * GIB))
    assert fit.fits
    (too_big,) = fits(llama31_8b, {"safetensors": 32_000_000_000}, workstation, 8192)
    assert not too_big.fits
    (both,) = fits(llama31_8b, {"safetensors": 120_000_000_000}, load_profile("multi-gpu"), 8192)
    assert both.fits and both.available_bytes == int(0.9 * 80 * GIB)
    assert both.memory.required_bytes / 2 < both.required_bytes < both.available_bytes


def test_two_gpus_hold_less_than_their_memory_together(llama31_8b: ModelFacts) -> None:
    """The engine and its buffers are on each of them: 143 GiB of weights fit 2 x 72 GiB together, and neither GPU."""
    (fit,) = fits(llama31_8b, {"safetensors": 142 * GIB}, load_profile("multi-gpu"), 2048)
    assert fit.memory.required_bytes < 2 * fit.available_bytes
    assert not fit.fits and "on the fullest of 2 GPUs" in fit.reason


def test_a_context_beyond_the_model_is_a_usage_error(qwen25_05b: ModelFacts, edge: DeviceProfile) -> None:
    with pytest.raises(UsageError, match="more than the model's 32768"):
        fits(qwen25_05b, FOUR_FORMATS, edge, 40000)


def test_unknown_formats_and_no_formats(qwen25_05b: ModelFacts, edge: DeviceProfile) -> None:
    with pytest.raises(UsageError, match="unknown format 'tflite'"):
        fits(qwen25_05b, {"tflite": 5}, edge, 2048)
    with pytest.raises(UsageError, match="no format"):
        require_fit(qwen25_05b, {}, edge, 2048)
