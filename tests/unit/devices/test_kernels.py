"""The fit of kernel rates: planted rates come back, what cannot be told apart is refused, and benchmarks correct it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from edgeport.devices.kernels import DecodeObservation, Observation, PromptObservation, fit_kernel
from edgeport.devices.least_squares import solve_nonnegative
from edgeport.devices.profile import DeviceProfile, KernelRates
from edgeport.devices.rates import decode_seconds, kernel_rates, prefill_seconds
from edgeport.devices.refine import refine
from edgeport.devices.work import DecodeWork, PromptWork
from edgeport.errors import EdgeportError, UsageError

PLANTED = KernelRates(
    "onnxruntime", 4, 12_345_678_901, seconds_per_layer=31e-6, seconds_per_token=210e-6,
    prefill_ops_per_s=180 * 10**9, cache_bandwidth_bytes_per_s=6 * 10**9, attention_ops_per_s=40 * 10**9,
)  # fmt: skip
SIZES = ((100e6, 4), (100e6, 28), (200e6, 8))


def decode_work(size: float, layers: int, cache: float = 0.0) -> DecodeWork:
    return DecodeWork(0.95 * size, 0.05 * size, cache, 0.0, layers)


def prompt_work(size: float, layers: int, depth: int = 0) -> PromptWork:
    operations = 2 * 256 * size * 8 / 4.5
    return PromptWork(256, operations, 0.05 * operations, 1e9 * layers * (1 + depth / 128), size, layers, 1)


def runs(kernel: KernelRates, *, noise: float = 0.0) -> list[Observation]:
    """What a machine with these rates would show for three models, shallow and deep."""
    generator = random.Random(1)
    rates = kernel_rates(kernel)
    found = []
    for size, layers in SIZES:
        for depth in (0, 512):
            step, prompt = (
                decode_work(size, layers, 3e4 * layers * depth / 10),
                prompt_work(size, layers, depth),
            )
            seconds = decode_seconds(step, rates), prefill_seconds(prompt, rates)
            assert seconds[1] is not None
            factor = 1 + noise * generator.uniform(-1, 1)
            found.append(
                Observation(
                    kernel.engine,
                    kernel.bits,
                    DecodeObservation(step, seconds[0] * factor),
                    PromptObservation(prompt, seconds[1] * factor),
                )
            )
    return found


def with_attention(
    items: list[Observation], kernel: KernelRates, shares: tuple[int, ...]
) -> list[Observation]:
    """The same runs of models whose key/value heads serve `shares` query heads each."""
    found = []
    for index, item in enumerate(items):
        assert item.decode is not None
        work = item.decode.work
        work = dataclasses.replace(work, attention_operations=work.cache_bytes * shares[index // 2])
        seconds = decode_seconds(work, kernel_rates(kernel))
        found.append(dataclasses.replace(item, decode=DecodeObservation(work, seconds)))
    return found


@pytest.mark.parametrize("cache", [6 * 10**9, None])
def test_the_caches_bytes_and_products_are_told_apart(cache: int | None) -> None:
    """An engine that reads each key once for its group, and one that goes through the cache once for each query head."""
    planted = dataclasses.replace(
        PLANTED, cache_bandwidth_bytes_per_s=cache, decode_attention_ops_per_s=15 * 10**9
    )
    found = fit_kernel(with_attention(runs(planted), planted, (4, 2, 6))).kernel
    assert found.decode_attention_ops_per_s == pytest.approx(15e9, rel=1e-4)
    assert found.cache_bandwidth_bytes_per_s == (None if cache is None else pytest.approx(cache, rel=1e-4))


def test_one_share_for_all_models_counts_as_bytes() -> None:
    planted = dataclasses.replace(
        PLANTED, cache_bandwidth_bytes_per_s=None, decode_attention_ops_per_s=15 * 10**9
    )
    found = fit_kernel(with_attention(runs(planted), planted, (4, 4, 4))).kernel
    assert found.decode_attention_ops_per_s is None
    assert found.cache_bandwidth_bytes_per_s == pytest.approx(15e9 / 4, rel=1e-4)


def without(item: Observation, part: str) -> Observation:
    return dataclasses.replace(item, **{part: None})  # type: ignore[arg-type]


def test_planted_rates_come_back() -> None:
    fit = fit_kernel(runs(PLANTED))
    found = fit.kernel
    assert found.decode_bandwidth_bytes_per_s == pytest.approx(PLANTED.decode_bandwidth_bytes_per_s, rel=1e-6)
    assert found.cache_bandwidth_bytes_per_s == pytest.approx(PLANTED.cache_bandwidth_bytes_per_s, rel=1e-5)
    assert found.seconds_per_layer == pytest.approx(PLANTED.seconds_per_layer, rel=1e-5)
    assert found.seconds_per_token == pytest.approx(PLANTED.seconds_per_token, rel=1e-4)
    assert found.prefill_ops_per_s == pytest.approx(PLANTED.prefill_ops_per_s, rel=1e-6)
    assert found.attention_ops_per_s == pytest.approx(PLANTED.attention_ops_per_s, rel=1e-5)
    assert fit.decode_residual < 1e-6 and fit.prompt_residual is not None and fit.prompt_residual < 1e-6


def test_a_little_noise_moves_them_a_little_and_no_cost_is_negative() -> None:
    nothing_fixed = dataclasses.replace(PLANTED, seconds_per_layer=0.0, seconds_per_token=0.0)
    fit = fit_kernel(runs(nothing_fixed, noise=0.03))
    assert fit.kernel.decode_bandwidth_bytes_per_s == pytest.approx(12_345_678_901, rel=0.1)
    assert fit.kernel.seconds_per_layer >= 0 and fit.kernel.seconds_per_token >= 0
    assert 0 < fit.decode_residual < 0.06


def test_without_deep_runs_the_cache_has_no_rate() -> None:
    shallow = [item for item in runs(PLANTED) if item.decode and not item.decode.work.cache_bytes]
    found = fit_kernel([without(item, "prompt") for item in shallow]).kernel
    assert found.cache_bandwidth_bytes_per_s is None and found.prefill_ops_per_s is None
    assert found.decode_bandwidth_bytes_per_s == pytest.approx(12_345_678_901, rel=1e-6)


def test_models_of_one_depth_cannot_be_told_apart() -> None:
    """Four layers each: a layer costs as much as a quarter of a token."""
    rates = kernel_rates(PLANTED)
    works = [decode_work(size, 4) for size in (1e8, 2e8, 3e8)]
    same = [
        Observation("openvino", 4, DecodeObservation(work, decode_seconds(work, rates))) for work in works
    ]
    with pytest.raises(UsageError, match="do not tell the costs of decoding apart"):
        fit_kernel(same)
    with pytest.raises(UsageError, match="do not tell"):
        fit_kernel(same[:2])


def test_a_mixture_of_engines_or_nothing_is_refused() -> None:
    others = [dataclasses.replace(item, engine="openvino") for item in runs(PLANTED)]
    with pytest.raises(UsageError, match="onnxruntime with 4 bits, openvino with 4 bits"):
        fit_kernel([*runs(PLANTED), *others])
    with pytest.raises(UsageError, match="not nothing"):
        fit_kernel([])
    with pytest.raises(UsageError, match="no times of decoding"):
        fit_kernel([without(item, "decode") for item in runs(PLANTED)])


def test_runs_that_contradict_each_other_are_refused() -> None:
    items = runs(PLANTED)
    disturbed = items[2].decode
    assert disturbed is not None
    items[2] = dataclasses.replace(
        items[2], decode=dataclasses.replace(disturbed, seconds=8 * disturbed.seconds)
    )
    with pytest.raises(EdgeportError, match="contradict each other"):
        fit_kernel(items)


def test_time_that_does_not_grow_with_the_weights_is_refused() -> None:
    """What reads from the cache, or waits for something else."""
    works = [decode_work(1e6, 4), decode_work(1e6, 28), decode_work(2e6, 8)]
    items = [Observation("openvino", 8, DecodeObservation(work, 1e-4 * work.layers)) for work in works]
    with pytest.raises(EdgeportError, match="takes no longer for more weights"):
        fit_kernel(items)


def test_least_squares_keeps_negative_answers_at_zero() -> None:
    assert solve_nonnegative([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [2.0, 3.0, 5.0]) == pytest.approx(
        [2.0, 3.0]
    )
    # Without the bound: 1.5 and -0.5. With it the first alone explains as much as can be.
    found = solve_nonnegative([[1.0, 1.0], [2.0, 4.0]], [1.0, 1.0])
    assert found[1] == 0.0 and found[0] > 0
    with pytest.raises(ValueError, match="told apart"):
        solve_nonnegative([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], [1.0, 2.0, 4.0])


@pytest.fixture
def profile(pi5: DeviceProfile) -> DeviceProfile:
    return dataclasses.replace(pi5, kernels=(PLANTED,), last_level_cache_bytes=2**20)


def slower(factor: float, *, variation: float = 0.0, prompt_factor: float | None = None) -> Observation:
    """One run of a machine whose times are `factor` times those of the planted rates."""
    step, prompt = decode_work(150e6, 12), prompt_work(150e6, 12)
    rates = kernel_rates(PLANTED)
    prompt_seconds = prefill_seconds(prompt, rates)
    assert prompt_seconds is not None
    return Observation(
        "onnxruntime",
        4,
        DecodeObservation(step, factor * decode_seconds(step, rates), variation),
        PromptObservation(prompt, (prompt_factor or factor) * prompt_seconds),
        threads=4,
        source="edgeport bench",
    )


def seconds_of(profile: DeviceProfile, item: Observation) -> float:
    assert item.decode is not None
    return decode_seconds(item.decode.work, kernel_rates(profile.kernels[0]))


def test_refinement_moves_towards_the_run_and_repeats_converge(profile: DeviceProfile) -> None:
    run = slower(1.44)
    assert run.decode is not None
    once = refine(profile, [run]).profile
    assert seconds_of(once, run) == pytest.approx(run.decode.seconds / 1.2, rel=1e-6), (
        "half of the way, in factors"
    )
    assert once.kernels[0].source == "edgeport bench"
    assert once.kernels[0].prefill_ops_per_s == pytest.approx(180e9 / 1.2, rel=1e-6)
    often = refine(profile, [run] * 8).profile
    assert seconds_of(often, run) == pytest.approx(run.decode.seconds, rel=0.01)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (slower(1.2, variation=0.2), "noisy (20% variation"),
        (slower(5.0), "5 times the time"),
        (slower(0.1), "0.1 times the time"),
        (dataclasses.replace(slower(1.2), threads=1), "measured with 1 threads"),
        (dataclasses.replace(slower(1.2), decode=None), "decoding was not measured"),
    ],
)
def test_runs_that_say_nothing_are_refused(run: Observation, reason: str, profile: DeviceProfile) -> None:
    found = refine(profile, [run])
    assert found.profile == profile and not found.accepted
    assert reason in found.refused[0]


def test_a_noisy_prompt_leaves_the_prompts_rate(profile: DeviceProfile) -> None:
    run = slower(1.44)
    assert run.prompt is not None
    noisy = dataclasses.replace(run, prompt=dataclasses.replace(run.prompt, variation=0.3))
    found = refine(profile, [noisy])
    assert found.profile.kernels[0].prefill_ops_per_s == PLANTED.prefill_ops_per_s
    assert found.profile.kernels[0] != PLANTED and "prompts are noisy (30%)" in found.accepted[0]


def test_a_model_in_the_cache_says_nothing(profile: DeviceProfile) -> None:
    cached = dataclasses.replace(profile, last_level_cache_bytes=2**30)
    assert "last-level cache" in refine(cached, [slower(1.2)]).refused[0]


def test_the_first_run_of_an_engine_makes_its_rates(profile: DeviceProfile) -> None:
    """Its bandwidth is what the run read; the cost per layer is the engine's other precision's."""
    run = dataclasses.replace(slower(1.0), bits=8)
    found = refine(profile, [run])
    assert [(row.engine, row.bits) for row in found.profile.kernels] == [
        ("onnxruntime", 4),
        ("onnxruntime", 8),
    ]
    made = found.profile.kernels[1]
    assert made.decode_bandwidth_bytes_per_s == pytest.approx(PLANTED.decode_bandwidth_bytes_per_s, rel=1e-6)
    assert made.seconds_per_layer == PLANTED.seconds_per_layer
    fresh = refine(dataclasses.replace(profile, kernels=()), [run]).profile.kernels[0]
    assert (
        fresh.seconds_per_layer == 0
        and fresh.decode_bandwidth_bytes_per_s < made.decode_bandwidth_bytes_per_s
    )
