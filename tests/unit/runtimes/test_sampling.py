"""Sampling functions against their definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeport.errors import UsageError
from edgeport.runtimes.sampling import (
    Sampling,
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_probability,
    penalize_repetition,
)

P = np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32)


def kept(values: np.ndarray) -> list[int]:
    return [int(index) for index in np.flatnonzero(values)]


def test_top_k_keeps_the_likeliest() -> None:
    assert kept(keep_top_k(P, 2)) == [1, 3]
    assert kept(keep_top_k(P, 0)) == kept(keep_top_k(P, 9)) == [0, 1, 2, 3, 4]
    assert kept(keep_top_k(np.full(4, 0.25, np.float32), 2)) == [0, 1], "ties go to the lower id"


@pytest.mark.parametrize(
    ("mass", "expected"), [(0.39, [1]), (0.41, [1, 3]), (0.7, [1, 3, 4]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_fewest_that_reach_it(mass: float, expected: list[int]) -> None:
    assert kept(keep_top_p(P, mass)) == expected


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert kept(keep_min_p(P, 0.4)) == [1, 3, 4]
    assert kept(keep_min_p(P, 1.0)) == [1]


def test_repetition_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    logits = np.array([2.0, -2.0, 1.0], np.float32)
    np.testing.assert_allclose(penalize_repetition(logits, [0, 1, 1], 2.0), [1.0, -4.0, 1.0])
    np.testing.assert_array_equal(logits, [2.0, -2.0, 1.0], "the engine's logits stay as they are")


def test_draws_follow_the_probabilities() -> None:
    generator = np.random.default_rng(0)
    counts = Counter(choose(np.log(P), Sampling(temperature=1.0), [], generator) for _ in range(20_000))
    observed = np.array([counts[index] for index in range(5)]) / 20_000
    np.testing.assert_allclose(observed, P, atol=0.012)


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    generator = np.random.default_rng(0)
    cold = Counter(choose(np.log(P), Sampling(temperature=0.2), [], generator) for _ in range(2000))
    expected = P.astype(np.float64) ** 5 / (P.astype(np.float64) ** 5).sum()
    assert cold[1] / 2000 == pytest.approx(expected[1], abs=0.03)
    assert {choose(np.log(P), Sampling(), [], generator) for _ in range(20)} == {1}


def test_a_draw_is_always_a_token_that_was_kept() -> None:
    generator = np.random.default_rng(1)
    sampling = Sampling(temperature=1.0, top_k=4, top_p=0.9, min_p=0.4)
    assert {choose(np.log(P), sampling, [], generator) for _ in range(500)} == {1, 3, 4}


def test_the_seed_decides() -> None:
    def draws(seed: int) -> list[int]:
        generator = np.random.default_rng(seed)
        return [choose(np.log(P), Sampling(temperature=1.0), [], generator) for _ in range(50)]

    assert draws(3) == draws(3) != draws(4)


def test_log_probability_is_that_of_the_softmax() -> None:
    assert log_probability(np.log(P) + 7, 3) == pytest.approx(np.log(0.25), abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
