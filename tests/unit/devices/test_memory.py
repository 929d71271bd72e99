"""The memory model against figures engines and publishers printed themselves."""

from __future__ import annotations

import dataclasses

import pytest

from edgeport.devices.conversion import CalibrationLoad, conversion_memory
from edgeport.devices.memory import (
    ENGINES,
    compute_bytes,
    estimate_memory,
    kv_cache_bytes,
    parameter_counts,
    predict_weights_bytes,
)
from edgeport.devices.profile import ENGINE_FORMATS
from edgeport.errors import UsageError
from edgeport.manifest import ModelFacts

MIB = 2**20


def test_parts_add_up_and_norms_and_biases_are_what_is_left(
    smollm2_135m: ModelFacts, qwen25_05b: ModelFacts
) -> None:
    smollm = parameter_counts(smollm2_135m)
    assert smollm.head == 0
    assert smollm.other == 576 * (2 * 30 + 1), "two norms a layer and the last one"
    assert smollm.linear + smollm.embedding + smollm.other == smollm2_135m.parameters
    qwen = parameter_counts(qwen25_05b)
    assert qwen.other == 896 * (2 * 24 + 1) + 24 * (896 + 2 * 128), "norms, and biases of q, k and v"


def test_untied_head_counts_on_its_own(llama31_8b: ModelFacts) -> None:
    counts = parameter_counts(llama31_8b)
    assert counts.head == counts.embedding == 128256 * 4096
    assert counts.other == 4096 * 65


@pytest.mark.parametrize(("context", "mib"), [(2048, 45.0), (2047, 45.0), (2049, 50.625)])
def test_kv_cache_of_smollm_as_llama_cpp_logs_it(context: int, mib: float, smollm2_135m: ModelFacts) -> None:
    assert kv_cache_bytes(smollm2_135m, context, padding=256) == mib * MIB


@pytest.mark.parametrize(("context", "mib"), [(2048, 24.0), (32768, 384.0)])
def test_kv_cache_of_qwen_as_llama_cpp_logs_it(context: int, mib: float, qwen25_05b: ModelFacts) -> None:
    assert kv_cache_bytes(qwen25_05b, context, padding=256) == mib * MIB


def test_quantized_cache_has_scales(qwen25_05b: ModelFacts) -> None:
    full = kv_cache_bytes(qwen25_05b, 2048)
    assert kv_cache_bytes(qwen25_05b, 2048, bits=8) == full * 8.5 / 16, "q8_0"
    assert kv_cache_bytes(qwen25_05b, 2048, bits=4) == full * 4.5 / 16, "q4_0"


@pytest.mark.parametrize(("batch", "mib"), [(512, 300.25), (128, 75.06), (64, 37.53), (32, 18.77)])
def test_compute_buffer_of_qwen_as_llama_cpp_logs_it(batch: int, mib: float, qwen25_05b: ModelFacts) -> None:
    assert compute_bytes(qwen25_05b, chunk_tokens=batch, logits_rows=batch) / MIB == pytest.approx(
        mib, abs=0.01
    )


def test_compute_buffer_of_smollm_as_llama_cpp_logs_it(smollm2_135m: ModelFacts) -> None:
    assert compute_bytes(smollm2_135m, chunk_tokens=512, logits_rows=512) / MIB == 98.25


# Largest resident size of a process with our session: opened, a prompt of context - 100 tokens, 16 tokens decoded.
# Random weights, recipe int4; 85.8 and 327.8 MiB of weights; Linux x86-64, onnxruntime 1.31, OpenVINO 2026.4, llama.cpp of 0.3.36.
MEASURED_MIB = [
    ("smollm2_135m", 85.8, "llama.cpp", 1024, 180),
    ("smollm2_135m", 85.8, "llama.cpp", 4096, 251),
    ("qwen25_05b", 327.8, "llama.cpp", 2048, 466),
    ("smollm2_135m", 85.8, "onnxruntime", 1024, 345),
    ("smollm2_135m", 85.8, "onnxruntime", 4096, 481),
    ("qwen25_05b", 327.8, "onnxruntime", 2048, 912),
    ("smollm2_135m", 85.8, "openvino", 1024, 479),
    ("smollm2_135m", 85.8, "openvino", 4096, 592),
    ("qwen25_05b", 327.8, "openvino", 2048, 1301),
    ("smollm2_135m", 111.0, "reference", 512, 582),
    ("qwen25_05b", 450.0, "reference", 512, 1958),
]


@pytest.mark.parametrize(("shape", "weights_mib", "engine", "context", "measured_mib"), MEASURED_MIB)
def test_peak_as_measured(
    shape: str,
    weights_mib: float,
    engine: str,
    context: int,
    measured_mib: int,
    request: pytest.FixtureRequest,
) -> None:
    estimate = estimate_memory(request.getfixturevalue(shape), round(weights_mib * MIB), engine, context)
    assert estimate.peak_bytes / MIB == pytest.approx(measured_mib, rel=0.05)


def test_small_vocabularies_are_bound_by_the_widest_layer(smollm2_135m: ModelFacts) -> None:
    narrow = dataclasses.replace(smollm2_135m, vocab_size=256)
    assert compute_bytes(narrow, chunk_tokens=64, logits_rows=64) == 4 * 64 * (3 * 576 + 2 * 1536)


def test_a_short_context_needs_a_small_chunk(qwen25_05b: ModelFacts) -> None:
    long = estimate_memory(qwen25_05b, 300 * MIB, "llama.cpp", 512)
    short = estimate_memory(qwen25_05b, 300 * MIB, "llama.cpp", 128)
    assert short.compute_bytes < long.compute_bytes


def test_onnxruntime_widens_float_weights(smollm2_135m: ModelFacts) -> None:
    estimate = estimate_memory(smollm2_135m, 2 * smollm2_135m.parameters, "onnxruntime", 512)
    assert estimate.weights_bytes == 4 * smollm2_135m.parameters


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_grows_with_context_and_sums_its_terms(engine: str, smollm2_135m: ModelFacts) -> None:
    small = estimate_memory(smollm2_135m, 90 * MIB, engine, 512)
    large = estimate_memory(smollm2_135m, 90 * MIB, engine, 8192)
    assert large.kv_cache_bytes == 16 * small.kv_cache_bytes
    assert large.required_bytes > small.required_bytes
    assert large.peak_bytes == large.required_bytes + large.mapped_bytes
    assert small.format == ENGINE_FORMATS[engine]
    assert small.basis.startswith(engine)


def test_the_reference_unpacks_to_float32(smollm2_135m: ModelFacts) -> None:
    assert (
        estimate_memory(smollm2_135m, 90 * MIB, "reference", 512).weights_bytes == 4 * smollm2_135m.parameters
    )


def test_engines_cover_the_profiles_vocabulary() -> None:
    assert set(ENGINES) == set(ENGINE_FORMATS)


def test_predicted_weights(llama31_8b: ModelFacts) -> None:
    """8.5 bits everywhere: llama.cpp's table says 8.50 bits per weight for Q8_0 of this model, 7.95 GiB."""
    predicted = predict_weights_bytes(llama31_8b, linear_bits=8.5, embedding_bits=8.5, head_bits=8.5)
    assert predicted / 2**30 == pytest.approx(7.95, abs=0.01)
    mixed = predict_weights_bytes(llama31_8b, linear_bits=4.5, embedding_bits=8.5, head_bits=8.5)
    assert mixed < predicted


@pytest.mark.parametrize(
    ("weights", "engine", "context"), [(0, "llama.cpp", 512), (5, "llama.cpp", 0), (5, "exllama", 512)]
)
def test_nonsense_is_refused(weights: int, engine: str, context: int, smollm2_135m: ModelFacts) -> None:
    with pytest.raises(UsageError):
        estimate_memory(smollm2_135m, weights, engine, context)


@pytest.mark.parametrize(("shape", "measured_mib"), [("smollm2_135m", 245), ("qwen25_05b", 524)])
def test_conversion_peak_as_measured(shape: str, measured_mib: int, request: pytest.FixtureRequest) -> None:
    estimate = conversion_memory(request.getfixturevalue(shape), largest_bits_per_weight=8.5, threads=2)
    assert estimate.peak_bytes / MIB == pytest.approx(measured_mib, rel=0.1)
    assert [stage.stage for stage in estimate.stages] == ["quantize", "pack", "golden"]


def test_more_workers_need_more(qwen25_05b: ModelFacts) -> None:
    two, eight = (
        conversion_memory(qwen25_05b, largest_bits_per_weight=8.5, threads=n).stages[0] for n in (2, 8)
    )
    assert eight.bytes > two.bytes


def test_calibration_adds_its_pass_and_learning_the_whole_model(qwen25_05b: ModelFacts) -> None:
    """GPTQ on the 0.5B twin was seen to peak below what is said here (benchmarks in docs/quantization.md)."""

    def stages(load: CalibrationLoad | None) -> dict[str, int]:
        estimate = conversion_memory(qwen25_05b, largest_bits_per_weight=8.5, threads=2, calibration=load)
        return {stage.stage: stage.bytes for stage in estimate.stages}

    plain, gptq = stages(None), stages(CalibrationLoad(hessian=True))
    gptaq = stages(CalibrationLoad(hessian=True, streams=2))
    learned = stages(CalibrationLoad(hessian=True, streams=2, distils=True))
    assert "calibrate" not in plain
    assert 1 << 30 < gptq["calibrate"] < gptaq["calibrate"] < 3 << 30
    assert learned["learn"] > 36 * qwen25_05b.parameters
