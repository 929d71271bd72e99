"""Sampling against its definitions, and against transformers' processors, which share no code with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.distribution import draw
from edgeport.runtimes.penalties import History
from edgeport.runtimes.sampling import (
    GREEDY,
    Sampling,
    choose,
    distribution,
    likeliest,
    log_probability,
    top_log_probabilities,
)

P = np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32)
EMPTY = History([])


def kept(sampling: Sampling, probabilities: np.ndarray = P) -> list[int]:
    return distribution(np.log(probabilities), sampling, EMPTY).tokens.tolist()


def warm(**settings: Any) -> Sampling:
    return Sampling(**{"temperature": 1.0, **settings})


def test_top_k_keeps_the_likeliest() -> None:
    assert kept(warm(top_k=2)) == [1, 3]
    assert kept(warm()) == kept(warm(top_k=9)) == [0, 1, 2, 3, 4]
    assert kept(warm(top_k=2), np.full(4, 0.25, np.float32)) == [0, 1], "ties go to the lower id"


@pytest.mark.parametrize(
    ("mass", "expected"), [(0.39, [1]), (0.41, [1, 3]), (0.7, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_fewest_that_reach_it(mass: float, expected: list[int]) -> None:
    assert kept(warm(top_p=mass)) == expected


def test_ties_at_the_border_of_top_p_go_to_the_lower_id() -> None:
    assert kept(warm(top_p=0.6), np.full(10, 0.1, np.float32)) == [0, 1, 2, 3, 4, 5]


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert kept(warm(min_p=0.4)) == [1, 3, 4]
    assert kept(warm(min_p=1.0)) == [1]


CUTS = [
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.02},
    {"temperature": 0.3, "top_p": 0.99},
    {"temperature": 1.7, "top_k": 500, "top_p": 0.6, "min_p": 0.1},
    {"repetition_penalty": 1.3, "top_k": 30, "top_p": 0.95},
    {"repetition_penalty": 0.8},
    {"logit_bias": {3: 5.0, 900: -100.0, 17: float("-inf")}, "top_k": 100, "temperature": 0.9},
]


@pytest.mark.parametrize("settings", CUTS, ids=lambda settings: "+".join(settings))
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_distributions_are_those_of_transformers(settings: dict[str, Any], spread: float) -> None:
    generator = np.random.default_rng(3)
    seen = [int(token) for token in generator.integers(0, 2000, 60)]
    for _ in range(3):
        logits = generator.normal(scale=spread, size=2000).astype(np.float32)
        found = distribution(logits, warm(**settings), History(seen))
        expected = transformers_distribution(logits, warm(**settings), seen)
        assert found.tokens.tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(found.probabilities, expected[found.tokens], rtol=2e-5)


def transformers_distribution(logits: np.ndarray, sampling: Sampling, seen: Sequence[int]) -> np.ndarray:
    """Its processors in the order its generate() applies them."""
    import torch
    from transformers.generation import logits_process as processes

    biases = {(token,): bias for token, bias in sampling.logit_bias.items()}
    chain: list[Any] = [
        processes.SequenceBiasLogitsProcessor(biases) if biases else None,
        processes.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        processes.TemperatureLogitsWarper(sampling.temperature),
        processes.TopKLogitsWarper(sampling.top_k) if sampling.top_k else None,
        processes.TopPLogitsWarper(sampling.top_p),
        processes.MinPLogitsWarper(sampling.min_p),
    ]
    scores, tokens = torch.tensor(logits)[None].double(), torch.tensor(seen)[None]
    for process in chain:
        scores = scores if process is None else process(tokens, scores)
    return np.asarray(scores.softmax(-1)[0])


def test_a_wide_vocabulary_is_cut_as_a_full_sort_would() -> None:
    """The nucleus is looked for among few; a plain sort of everything finds the same."""
    for spread in (0.3, 3.0, 8.0):
        logits = np.random.default_rng(5).normal(scale=spread, size=50_000).astype(np.float32)
        powers = np.exp(logits.astype(np.float64) - logits.max())
        order = np.argsort(-powers)
        shares = np.cumsum(powers[order]) / powers.sum()
        count = int(np.searchsorted(shares, 0.95)) + 1
        found = distribution(logits, warm(top_p=0.95), EMPTY).tokens
        # float32 may place the border one token off
        assert abs(found.size - count) <= 1 and set(order[: count - 1]) <= set(found.tolist())


def test_repetition_looks_at_prompt_and_text_whatever_the_sign() -> None:
    logits = np.array([2.0, -2.0, 1.0, 1.9], np.float32)
    history = History([0, 1, 1])
    assert likeliest(logits, GREEDY, history) == 0
    assert likeliest(logits, Sampling(repetition_penalty=2.0), history) == 3
    history.append(3)
    found = distribution(logits, warm(repetition_penalty=2.0), history)
    expected = np.exp([1.0, -4.0, 1.0, 0.95])
    np.testing.assert_allclose(found.probabilities, expected / expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(logits, [2.0, -2.0, 1.0, np.float32(1.9)])


def test_presence_and_frequency_look_at_the_text_alone() -> None:
    """OpenAI's: mu[j] -= c[j] * frequency + (c[j] > 0) * presence, where c counts what was generated."""
    logits = np.array([1.0, 2.0, 3.0, 0.0], np.float32)
    history = History([2, 2, 2])
    for token in (0, 1, 1):
        history.append(token)
    found = distribution(logits, warm(presence_penalty=0.5, frequency_penalty=0.25), history)
    expected = np.exp([1.0 - 0.5 - 0.25, 2.0 - 0.5 - 0.5, 3.0, 0.0])
    np.testing.assert_allclose(found.probabilities, expected / expected.sum(), rtol=1e-6)


def test_penalties_follow_a_text_that_grows_and_is_taken_back() -> None:
    sampling, logits = warm(frequency_penalty=1.0, repetition_penalty=1.5), np.log(P)
    history = History([4])
    distribution(logits, sampling, history)  # counts from here on
    for token in (1, 1, 3):
        history.append(token)
    history.take_back(2)
    fresh = History([4])
    fresh.append(1)
    np.testing.assert_array_equal(
        distribution(logits, sampling, history).probabilities,
        distribution(logits, sampling, fresh).probabilities,
    )


def test_bias_wins_and_minus_infinity_forbids() -> None:
    assert likeliest(np.log(P), Sampling(logit_bias={2: 10.0}), EMPTY) == 2
    assert kept(warm(logit_bias={1: float("-inf")}, top_k=4)) == [0, 2, 3, 4]
    with pytest.raises(UsageError, match="logit_bias names token 5, the vocabulary has 5"):
        likeliest(np.log(P), Sampling(logit_bias={5: 1.0}), EMPTY)


def test_only_allowed_tokens_are_taken() -> None:
    allowed = np.array([True, False, True, False, False])
    assert likeliest(np.log(P), GREEDY, EMPTY, allowed) == 0
    found = distribution(np.log(P), warm(top_k=1), EMPTY, allowed)
    assert found.tokens.tolist() == [0], "the mask comes before the cut"
    forbidden = warm(logit_bias={0: float("-inf"), 2: float("-inf")})
    generator = np.random.default_rng(0)
    assert choose(np.log(P), forbidden, EMPTY, generator, allowed) in (0, 2), "what must hold, holds"


def test_draws_follow_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    counts = Counter(choose(np.log(P), warm(), EMPTY, generator) for _ in range(20_000))
    observed = np.array([counts[index] for index in range(5)]) / 20_000
    np.testing.assert_allclose(observed, P, atol=0.012)


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    generator = np.random.default_rng(0)
    cold = Counter(choose(np.log(P), Sampling(temperature=0.2), EMPTY, generator) for _ in range(2000))
    expected = P.astype(np.float64) ** 5 / (P.astype(np.float64) ** 5).sum()
    assert cold[1] / 2000 == pytest.approx(expected[1], abs=0.03)
    assert {choose(np.log(P), Sampling(), EMPTY, generator) for _ in range(20)} == {1}
    assert {choose(np.log(P), Sampling(1e-30), EMPTY, generator) for _ in range(20)} == {1}


def test_a_draw_is_always_a_token_that_was_kept() -> None:
    generator = np.random.default_rng(1)
    sampling = warm(top_k=4, top_p=0.9, min_p=0.4)
    assert {choose(np.log(P), sampling, EMPTY, generator) for _ in range(500)} == {1, 3, 4}


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_a_draw_in_two_steps_is_the_draw_in_one(size: int) -> None:
    """Inversion of the cumulative sum, written plainly: the same random number gives the same token."""
    source = np.random.default_rng(size)
    weights = (source.random(size) ** 8 * (source.random(size) < 0.3)).astype(np.float32)
    weights[size // 2] = 1.0
    ends, same = np.cumsum(weights, dtype=np.float64), 0
    for seed in range(300):
        found = draw(weights, np.random.default_rng(seed))
        plain = np.searchsorted(ends, np.random.default_rng(seed).random() * ends[-1], side="right")
        assert weights[found] > 0
        same += found == plain
    assert same >= 299, "but for rounding at a border"


def test_a_draw_at_the_very_end_is_a_token_that_was_kept() -> None:
    class One:
        def random(self) -> float:
            return 1.0

    for size in (3, 256, 700):
        weights = np.zeros(size, np.float32)
        weights[1] = 0.5
        assert draw(weights, One()) == 1  # type: ignore[arg-type]


def test_the_seed_decides() -> None:
    def draws(seed: int) -> list[int]:
        generator = np.random.default_rng(seed)
        return [choose(np.log(P), warm(), EMPTY, generator) for _ in range(50)]

    assert draws(3) == draws(3) != draws(4)


def test_log_probabilities_are_those_of_the_softmax() -> None:
    logits = np.random.default_rng(2).normal(scale=3, size=5000).astype(np.float32)
    wide = logits.astype(np.float64)
    exact = wide - np.log(np.exp(wide).sum())
    assert log_probability(logits, 77) == pytest.approx(exact[77], abs=2e-6)
    found = top_log_probabilities(logits, 5)
    assert [token for token, _ in found] == np.argsort(-wide)[:5].tolist()
    assert [value for _, value in found] == pytest.approx(np.sort(exact)[::-1][:5].tolist(), abs=2e-6)
    assert len(top_log_probabilities(np.log(P), 50)) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": float("inf")},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("nan")}},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)
