"""Predicted speed: the formula term by term against arithmetic by hand, its three sources, and published runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgeport.devices.catalog import load_profile
from edgeport.devices.profile import DeviceProfile, KernelRates
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape, shape_of
from edgeport.devices.speed import SpeedEstimate, estimate_speed
from edgeport.devices.work import attention_operations
from edgeport.errors import UsageError
from edgeport.manifest import ModelFacts

LLAMA_8B_Q4_K_M = 4_920_000_000
LLAMA_8B_F16 = 16_070_000_000
RATES = KernelRates(
    "llama.cpp", 8, 10 * 10**9, seconds_per_layer=1e-4, seconds_per_token=2e-4, prefill_ops_per_s=10**11,
    cache_bandwidth_bytes_per_s=5 * 10**9, attention_ops_per_s=5 * 10**10,
)  # fmt: skip


@pytest.fixture
def llama(llama31_8b: ModelFacts) -> ModelShape:
    return shape_of(llama31_8b)


@pytest.fixture
def small(smollm2_135m: ModelFacts) -> ModelShape:
    return shape_of(smollm2_135m)


@pytest.fixture
def board(pi5: DeviceProfile) -> DeviceProfile:
    """A processor with measured 8-bit kernels and no cache to speak of."""
    return dataclasses.replace(pi5, kernels=(RATES,), last_level_cache_bytes=None)


def toy(**changes: Any) -> ModelShape:
    """Two layers with one matrix of 1000 x 1000 each, a head and a table of 500 x 1000; 8 key-value pairs of 64."""
    matrices = tuple(TensorShape(f"l{index}", (1000, 1000), "linear", index) for index in range(2))
    outside = (TensorShape("table", (500, 1000), "embedding"), TensorShape("head", (500, 1000), "head"))
    values: dict[str, Any] = {
        "name": "toy", "family": "llama", "hidden_size": 1000, "intermediate_size": 1000, "heads": 8, "head_dim": 64,
        "vocab_size": 500, "context_length": 8192, "tied_embeddings": False, "tensors": (*matrices, *outside),
        "caches": (CacheShape(8, 64, 64),) * 2,
    }  # fmt: skip
    return ModelShape(**(values | changes))


TOY_BYTES = round(3_000_000 * 8.5 / 8)


def on(profile: DeviceProfile, shape: ModelShape, **options: Any) -> SpeedEstimate:
    return estimate_speed(shape, options.pop("size", TOY_BYTES), 8, profile, "llama.cpp", **options)


def test_decoding_by_hand(board: DeviceProfile) -> None:
    """The table is not read: 2.5 million weights of 8.5 bits at 10 GB/s, two layers of 0.1 ms, 0.2 ms for the token."""
    estimate = on(board, toy())
    seconds = 2_500_000 * 8.5 / 8 / 10e9 + 2 * 1e-4 + 2e-4
    assert estimate.decode_tokens_per_s == pytest.approx(1 / seconds, rel=1e-6)
    assert estimate.decode_low_tokens_per_s == pytest.approx(0.85 / seconds, rel=1e-6)
    assert estimate.decode_high_tokens_per_s == pytest.approx(1.15 / seconds, rel=1e-6)
    assert "INT8 kernels" in estimate.basis


def test_a_tied_table_is_the_head_and_is_read(board: DeviceProfile) -> None:
    tied = toy(tied_embeddings=True, tensors=toy().tensors[:3])
    size = round(2_500_000 * 8.5 / 8)
    assert on(board, tied, size=size).bytes_per_token == on(board, toy()).bytes_per_token == size


def test_the_cache_is_read_as_deep_as_it_is(board: DeviceProfile) -> None:
    """1000 tokens x 2 layers x 8 heads x 128 values x 2 bytes, at its own rate."""
    cache = 1000 * 2 * 8 * 128 * 2
    shallow, deep = on(board, toy()), on(board, toy(), depth=1000)
    assert deep.bytes_per_token - shallow.bytes_per_token == cache
    difference = 1 / deep.decode_tokens_per_s - 1 / shallow.decode_tokens_per_s
    assert difference == pytest.approx(cache / 5e9, rel=1e-6)
    eight_bits = on(board, toy(), depth=1000, kv_bits=8)
    assert eight_bits.bytes_per_token - shallow.bytes_per_token == pytest.approx(cache * 8.5 / 16)


def test_a_window_bounds_the_cache(board: DeviceProfile) -> None:
    caches = (CacheShape(8, 64, 64, window=100), CacheShape(8, 64, 64))
    windowed = toy(caches=caches, family="gemma2")
    assert on(board, windowed, depth=100).bytes_per_token == on(board, toy(), depth=100).bytes_per_token
    grown = on(board, windowed, depth=1000).bytes_per_token - on(board, toy()).bytes_per_token
    assert grown == (100 + 1000) * 8 * 128 * 2
    # llama.cpp keeps the whole context of a family whose windows it does not know.
    unknown = on(board, toy(caches=caches), depth=1000).bytes_per_token
    assert unknown == on(board, toy(), depth=1000).bytes_per_token


def mixture() -> ModelShape:
    """Eight experts a layer, two of which a token chooses."""
    experts = tuple(TensorShape(f"e{index}", (1000, 1000), "expert", index, count=8) for index in range(2))
    return toy(tensors=(*toy().tensors, *experts), experts=8, experts_per_token=2)


def test_of_experts_only_the_chosen_ones_are_read(board: DeviceProfile) -> None:
    size = round(19_000_000 * 8.5 / 8)
    each = 1_000_000 * 8.5 / 8
    dense = on(board, toy()).bytes_per_token
    assert on(board, mixture(), size=size).bytes_per_token == pytest.approx(dense + 4 * each, abs=2)
    # Two tokens that choose two of eight each: 8 * (1 - (6/8)**2) = 3.5 experts a layer are expected.
    pair = on(board, mixture(), size=size, batch=2).bytes_per_token
    assert pair == pytest.approx(dense + 7 * each, abs=2)


def test_a_prompt_by_hand(board: DeviceProfile) -> None:
    """100 tokens in one chunk; llama.cpp computes the head for the last one only."""
    matrices = 2 * 100 * 2_000_000 + 2 * 500_000
    attention = 2 * 2 * 8 * (64 + 64) * 100 * 101 / 2
    seconds = matrices / 1e11 + attention / 5e10 + 2 * 1e-4 + 2e-4
    estimate = on(board, toy(), prompt_tokens=100)
    assert estimate.prefill_tokens_per_s == pytest.approx(100 / seconds, rel=1e-6)
    # A prompt of one token waits for the weights.
    reading = 2_500_000 * 8.5 / 8 / 10e9 + 2 * 1e-4 + 2e-4
    assert on(board, toy(), prompt_tokens=1).prefill_tokens_per_s == pytest.approx(1 / reading, rel=1e-6)


def test_engines_that_compute_every_row_pay_for_the_head(board: DeviceProfile) -> None:
    rows = tuple(dataclasses.replace(RATES, engine=engine) for engine in ("llama.cpp", "onnxruntime"))
    profile = dataclasses.replace(board, kernels=rows)
    one, every = (
        estimate_speed(toy(), TOY_BYTES, 8, profile, engine, prompt_tokens=256).prefill_tokens_per_s
        for engine in ("llama.cpp", "onnxruntime")
    )
    assert one is not None and every is not None
    assert 256 / every - 256 / one == pytest.approx(255 * 2 * 500_000 / 1e11, rel=1e-6)


def test_long_prompts_are_slower_by_attention(board: DeviceProfile) -> None:
    rates = [on(board, toy(), prompt_tokens=tokens).prefill_tokens_per_s for tokens in (512, 8192)]
    assert rates[0] is not None and rates[1] is not None and rates[1] < rates[0]


def test_a_batch_reads_weights_once(board: DeviceProfile) -> None:
    alone, many = on(board, toy()), on(board, toy(), batch=4)
    assert many.bytes_per_token == alone.bytes_per_token
    assert many.decode_tokens_per_s == pytest.approx(4 * alone.decode_tokens_per_s, rel=1e-6)
    # From some batch on arithmetic is slower than reading: 2.5 million weights, 2 operations, 1e11 a second.
    huge = on(board, toy(), batch=1000)
    assert 1000 / huge.decode_tokens_per_s > 1000 * 2 * 2_500_000 / 1e11


def test_a_batch_without_an_arithmetic_rate_promises_nothing(edge: DeviceProfile, small: ModelShape) -> None:
    alone = estimate_speed(small, 80_000_000, 4, edge, "llama.cpp")
    many = estimate_speed(small, 80_000_000, 4, edge, "llama.cpp", batch=8)
    assert "no arithmetic rate" in many.basis
    assert many.decode_low_tokens_per_s == pytest.approx(alone.decode_low_tokens_per_s)


def test_the_head_of_an_int4_model_runs_on_int8_kernels(board: DeviceProfile) -> None:
    """4.5 bits in the matrices, 8.5 in table and head: the bytes are divided so, and each part has its own rate."""
    four = dataclasses.replace(RATES, bits=4, decode_bandwidth_bytes_per_s=4 * 10**9)
    profile = dataclasses.replace(board, kernels=(four, RATES))
    size = round((2_000_000 * 4.5 + 1_000_000 * 8.5) / 8)
    estimate = estimate_speed(toy(), size, 4, profile, "llama.cpp")
    seconds = 2_000_000 * 4.5 / 8 / 4e9 + 500_000 * 8.5 / 8 / 10e9 + 2 * 1e-4 + 2e-4
    assert estimate.decode_tokens_per_s == pytest.approx(1 / seconds, rel=1e-5)


def test_a_tied_table_is_computed_as_a_head(board: DeviceProfile) -> None:
    """At the rate of INT8 kernels while decoding, and by llama.cpp for the last token of a prompt only."""
    four = dataclasses.replace(RATES, bits=4, decode_bandwidth_bytes_per_s=4 * 10**9)
    profile = dataclasses.replace(board, kernels=(four, RATES))
    tied = toy(tied_embeddings=True, tensors=toy().tensors[:3])
    size = round((2_000_000 * 4.5 + 500_000 * 8.5) / 8)
    estimate = estimate_speed(tied, size, 4, profile, "llama.cpp", prompt_tokens=100)
    own = round((2_000_000 * 4.5 + 1_000_000 * 8.5) / 8)
    untied = estimate_speed(toy(), own, 4, profile, "llama.cpp", prompt_tokens=100)
    assert estimate.decode_tokens_per_s == pytest.approx(untied.decode_tokens_per_s, rel=1e-5)
    assert estimate.prefill_tokens_per_s == pytest.approx(untied.prefill_tokens_per_s, rel=1e-5)


def test_a_window_bounds_attention_in_prompts() -> None:
    """A token attends to at most 100 positions: 1 + 2 + ... + 100 for the first hundred, then 100 each."""
    shape = toy(caches=(CacheShape(8, 64, 64, window=100),))
    each = 2 * 8 * 128
    assert attention_operations(shape, 1000) == each * (100 * 101 / 2 + 900 * 100)
    assert attention_operations(shape, 10, depth=95) == each * (96 + 97 + 98 + 99 + 100 + 5 * 100)
    assert attention_operations(shape, 10, depth=500) == each * 10 * 100
    assert attention_operations(toy(), 10, depth=20) == 2 * each * sum(range(21, 31))


def test_the_source_goes_from_kernels_to_bandwidth_to_data_sheet(
    pi5: DeviceProfile, small: ModelShape
) -> None:
    def estimate(profile: DeviceProfile, engine: str = "llama.cpp") -> SpeedEstimate:
        return estimate_speed(small, 140_000_000, 8, profile, engine)

    def width(found: SpeedEstimate) -> float:
        return found.decode_high_tokens_per_s / found.decode_low_tokens_per_s

    sheet = dataclasses.replace(pi5, sustained_bandwidth_bytes_per_s=None)
    kernels = dataclasses.replace(pi5, kernels=(RATES,))
    found = [estimate(profile) for profile in (kernels, pi5, sheet)]
    assert [word in item.basis for word, item in zip(("kernels", "measured", "data sheet"), found, strict=True)] == [
        True, True, True,
    ]  # fmt: skip
    assert width(found[0]) < width(found[1]) < width(found[2])
    other = estimate(kernels, "onnxruntime")
    assert "kernels" not in other.basis and "no published runs of onnxruntime" in other.basis
    assert other.decode_low_tokens_per_s < found[1].decode_low_tokens_per_s


def test_rates_of_other_bits_are_not_used(board: DeviceProfile, small: ModelShape) -> None:
    assert "kernels" in estimate_speed(small, 140_000_000, 8.5, board, "llama.cpp").basis
    assert "kernels" not in estimate_speed(small, 270_000_000, 16, board, "llama.cpp").basis


@pytest.mark.parametrize(
    ("device", "engine", "weights_bytes", "bits", "tokens_per_s"),
    [
        # https://github.com/geerlingguy/ai-benchmarks/issues/7
        ("raspberry-pi-5-8gb", "llama.cpp", LLAMA_8B_Q4_K_M, 4.85, 2.17),
        # These two made the constants of their class: the formula must give them back.
        # https://github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference
        ("workstation-gpu", "llama.cpp", LLAMA_8B_Q4_K_M, 4.85, 127.7),
        ("workstation-gpu", "llama.cpp", LLAMA_8B_F16, 16, 54.3),
    ],
)
def test_published_decode_lies_in_the_interval(
    device: str, engine: str, weights_bytes: int, bits: float, tokens_per_s: float, llama: ModelShape
) -> None:
    profile = load_profile(device)
    estimate = estimate_speed(llama, weights_bytes, bits, profile, engine, on_gpu=profile.runs_on_gpu(engine))
    assert estimate.decode_low_tokens_per_s <= tokens_per_s <= estimate.decode_high_tokens_per_s
    assert estimate.decode_tokens_per_s == pytest.approx(tokens_per_s, rel=0.25)


def test_the_interval_can_say_no(llama: ModelShape, pi5: DeviceProfile) -> None:
    """The complaint that made others print intervals: 30 tokens/s promised, 2 seen."""
    estimate = estimate_speed(llama, LLAMA_8B_Q4_K_M, 4.85, pi5, "llama.cpp")
    assert estimate.decode_high_tokens_per_s < 3


def test_many_cores_wait_for_each_other(small: ModelShape) -> None:
    server = dataclasses.replace(load_profile("cpu-server"), last_level_cache_bytes=None)
    fewer = dataclasses.replace(server, cores=server.cores // 8)
    fast, slow = (
        estimate_speed(small, 80_000_000, 4, item, "llama.cpp").decode_tokens_per_s
        for item in (fewer, server)
    )
    assert slow < fast


def test_weights_in_the_cache_raise_only_the_upper_bound(small: ModelShape) -> None:
    server = dataclasses.replace(load_profile("cpu-server"), last_level_cache_bytes=2**28)
    outside = dataclasses.replace(server, last_level_cache_bytes=None)
    inside, plain = (estimate_speed(small, 80_000_000, 4, item, "llama.cpp") for item in (server, outside))
    assert "cache" in inside.basis and "cache" not in plain.basis
    assert inside.decode_high_tokens_per_s > plain.decode_high_tokens_per_s
    assert inside.decode_tokens_per_s == plain.decode_tokens_per_s
    assert inside.decode_low_tokens_per_s == plain.decode_low_tokens_per_s


def test_prefill_is_unknown_without_a_compute_rate(
    small: ModelShape, edge: DeviceProfile, pi5: DeviceProfile
) -> None:
    unknown = estimate_speed(small, 80_000_000, 4, edge, "llama.cpp")
    assert unknown.prefill_tokens_per_s is None and "no arithmetic rate is known" in unknown.basis
    known = estimate_speed(small, 80_000_000, 4, pi5, "llama.cpp")
    assert known.prefill_low_tokens_per_s and known.prefill_tokens_per_s and known.prefill_high_tokens_per_s
    assert known.prefill_low_tokens_per_s < known.prefill_tokens_per_s < known.prefill_high_tokens_per_s


def gpus(engine: str, shape: ModelShape, profile: DeviceProfile, **options: Any) -> SpeedEstimate:
    return estimate_speed(shape, LLAMA_8B_F16, 16, profile, engine, on_gpu=True, **options)


def test_tensor_parallelism_gains_less_than_its_gpus_and_a_pipeline_nothing(llama: ModelShape) -> None:
    pair = load_profile("multi-gpu")
    assert pair.gpu is not None
    one = dataclasses.replace(pair, gpu=dataclasses.replace(pair.gpu, count=1))
    single, double = gpus("vllm", llama, one), gpus("vllm", llama, pair)
    assert single.decode_tokens_per_s < double.decode_tokens_per_s < 2 * single.decode_tokens_per_s
    layers = gpus("vllm", llama, pair, split=(1, 2))
    assert layers.decode_tokens_per_s < single.decode_tokens_per_s
    assert (
        gpus("llama.cpp", llama, pair).decode_tokens_per_s < gpus("llama.cpp", llama, one).decode_tokens_per_s
    )
    assert "2 tensor-parallel x 1" in double.basis and "1 tensor-parallel x 2" in layers.basis


def test_a_slow_interconnect_costs_prompts_most(llama: ModelShape) -> None:
    fast = load_profile("multi-gpu")
    assert fast.gpu is not None
    slow = dataclasses.replace(fast, gpu=dataclasses.replace(fast.gpu, interconnect_bytes_per_s=32 * 10**9))
    unknown = dataclasses.replace(fast, gpu=dataclasses.replace(fast.gpu, interconnect_bytes_per_s=None))
    found = {
        name: gpus("vllm", llama, item) for name, item in (("fast", fast), ("slow", slow), ("none", unknown))
    }
    decode = found["slow"].decode_tokens_per_s / found["fast"].decode_tokens_per_s
    assert found["slow"].prefill_tokens_per_s and found["fast"].prefill_tokens_per_s
    prefill = found["slow"].prefill_tokens_per_s / found["fast"].prefill_tokens_per_s
    assert prefill < decode < 1
    assert "nobody says how fast the GPUs are connected" in found["none"].basis
    assert found["none"].decode_low_tokens_per_s < found["fast"].decode_low_tokens_per_s


@pytest.mark.parametrize("split", [(3, 1), (2, 2), (0, 1)])
def test_more_gpus_than_there_are_cannot_be_used(split: tuple[int, int], llama: ModelShape) -> None:
    with pytest.raises(UsageError, match="GPUs cannot be used"):
        gpus("vllm", llama, load_profile("multi-gpu"), split=split)


def test_nonsense_is_refused(edge: DeviceProfile, small: ModelShape) -> None:
    with pytest.raises(UsageError, match="has no GPU"):
        estimate_speed(small, 80_000_000, 4, edge, "llama.cpp", on_gpu=True)
    with pytest.raises(UsageError, match="0 bytes"):
        estimate_speed(small, 0, 4, edge, "llama.cpp")
    with pytest.raises(UsageError, match="engine 'ollama'"):
        estimate_speed(small, 80_000_000, 4, edge, "ollama")
    for options in ({"depth": -1}, {"batch": 0}, {"prompt_tokens": 0}):
        with pytest.raises(UsageError, match="cannot estimate"):
            estimate_speed(small, 80_000_000, 4, edge, "llama.cpp", **options)  # type: ignore[arg-type]
