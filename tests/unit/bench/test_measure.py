"""What is fed, in which order, and what the clock covers: a scripted session on a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.bench.measure import (
    Samples,
    Workload,
    first_token_ns,
    fit_workload,
    label,
    measure_generation,
    measure_prompt,
    random_tokens,
)
from edgeport.runtimes.bench.speed import latency, rate
from edgeport.runtimes.session import Logits


class ScriptedSession:
    """A prompt costs 1000 ns a token, a single token 10 ns plus its position; rewinding costs a fortune."""

    vocab_size = 100

    def __init__(self, context_length: int = 1000) -> None:
        self.context_length = context_length
        self.position = 0
        self.now = 0
        self.calls: list[tuple[str, int]] = []

    def clock(self) -> int:
        return self.now

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        assert not all_logits
        assert all(0 <= token < self.vocab_size for token in tokens)
        assert self.position + len(tokens) <= self.context_length
        self.now += 1000 * len(tokens) if len(tokens) > 1 else 10 + self.position
        self.position += len(tokens)
        self.calls.append(("feed", len(tokens)))
        return np.zeros((1, self.vocab_size), np.float32)

    def rewind(self, position: int) -> None:
        assert 0 <= position <= self.position
        self.now += 10**9
        self.position = position
        self.calls.append(("rewind", position))

    def close(self) -> None:
        self.calls.append(("close", 0))


def test_prompt_is_warmed_up_once_and_the_cache_cleared_before_each_repetition() -> None:
    session = ScriptedSession()
    samples = measure_prompt(session, Workload(n_prompt=512, repetitions=3), clock=session.clock)
    assert session.calls == [("rewind", 0), *[("rewind", 0), ("feed", 512)] * 4]
    assert samples.test == "pp512"
    assert samples.samples_ns == (512_000,) * 3
    assert samples.ttft_ns == (512_000,) * 3
    assert samples.samples_ts == pytest.approx((1e6,) * 3)


def test_generation_feeds_single_tokens_and_keeps_each_time() -> None:
    session = ScriptedSession()
    samples = measure_generation(session, Workload(n_gen=4, repetitions=2), clock=session.clock)
    warm_up, repetition = [("rewind", 0), ("feed", 1)], [("rewind", 0), *[("feed", 1)] * 4]
    assert session.calls == [*warm_up, *repetition, *repetition]
    assert samples.test == "tg4"
    assert samples.token_ns == ((10, 11, 12, 13),) * 2
    assert samples.samples_ns == (46, 46)


def test_depth_is_fed_once_before_the_clock_starts() -> None:
    session = ScriptedSession()
    workload = Workload(n_prompt=100, n_gen=2, n_depth=50, repetitions=2)
    prompt = measure_prompt(session, workload, clock=session.clock)
    assert session.calls == [("rewind", 0), ("feed", 50), *[("rewind", 50), ("feed", 100)] * 3]
    assert (prompt.test, prompt.samples_ns) == ("pp100 @ d50", (100_000,) * 2)
    generation = measure_generation(session, workload, clock=session.clock)
    assert generation.token_ns == ((60, 61),) * 2
    assert generation.test == "tg2 @ d50"


def test_a_short_context_shortens_the_tests_and_their_names_say_so() -> None:
    session = ScriptedSession(context_length=256)
    prompt = measure_prompt(session, Workload(repetitions=1), clock=session.clock)
    assert (prompt.test, prompt.n_prompt) == ("pp256 (of 512)", 256)
    generation = measure_generation(session, Workload(n_gen=300, repetitions=1), clock=session.clock)
    assert (generation.test, generation.n_gen) == ("tg256 (of 300)", 256)


def test_depth_that_fills_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="depth 256 leaves no room in a context of 256"):
        fit_workload(Workload(n_depth=256), 256)


@pytest.mark.parametrize(
    "arguments", [{"n_prompt": 0, "n_gen": 0}, {"n_prompt": -1}, {"n_depth": -1}, {"repetitions": 0}]
)
def test_a_workload_without_work_is_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Workload(**arguments)


def test_first_token_includes_prompt_and_starts_empty() -> None:
    session = ScriptedSession()
    session.position = 7
    assert first_token_ns(session, [1, 2, 3], clock=session.clock) == 3000
    assert session.calls == [("rewind", 0), ("feed", 3)]


def test_tokens_are_the_same_each_time_and_all_valid() -> None:
    tokens = random_tokens(1000, 50, seed=3)
    assert tokens == random_tokens(1000, 50, seed=3) != random_tokens(1000, 50, seed=4)
    assert set(tokens) == set(range(50))


def test_labels_are_llama_benchs() -> None:
    assert label(512, 0) == "pp512"
    assert label(0, 128, n_depth=64) == "tg128 @ d64"
    assert label(0, 64, asked=128) == "tg64 (of 128)"


def test_rate_is_the_mean_of_rates_and_a_restless_machine_is_noisy() -> None:
    calm = Samples("tg2", 0, 2, 0, "", samples_ns=(100, 100, 100))
    assert rate(calm).tokens_per_s == pytest.approx(2e7)
    assert not rate(calm).noisy
    restless = Samples("tg2", 0, 2, 0, "", samples_ns=(100, 200))
    assert rate(restless).tokens_per_s == pytest.approx((2e7 + 1e7) / 2)
    assert rate(restless).standard_deviation == pytest.approx(np.std([2e7, 1e7], ddof=1))
    assert rate(restless).noisy


def test_latency_takes_the_tokens_of_all_repetitions() -> None:
    samples = Samples(
        "tg2", 0, 2, 0, "", samples_ns=(1, 1), token_ns=((1_000_000, 2_000_000), (3_000_000, 9_000_000))
    )
    found = latency(samples)
    assert found is not None
    assert (found.p50_ms, found.maximum_ms) == (2.5, 9.0)
    assert found.p95_ms == pytest.approx(np.percentile([1, 2, 3, 9], 95))
    assert latency(Samples("pp2", 2, 0, 0, "", samples_ns=(1,))) is None
