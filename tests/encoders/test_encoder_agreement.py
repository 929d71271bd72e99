"""The gate of an encoder: cosines as defined, and a no for every way of being far away."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from edgeport.export.encoders.agreement import (
    agreement_text,
    compare_states,
    cosines,
    objections,
    same_labels,
)

GENERATOR = np.random.default_rng(1)
STATES = [GENERATOR.standard_normal((length, 16)).astype(np.float32) for length in (3, 9, 5)]


def test_the_same_states_agree() -> None:
    found = compare_states(STATES, STATES, "mean", 1.0)
    assert (found.texts, found.tokens) == (3, 17)
    assert found.least_pooled_cosine == pytest.approx(1) and found.relative_error == 0
    assert objections(asdict(found), 0.999) == []
    assert "same label 100%" in agreement_text(asdict(found))


def test_noise_is_measured() -> None:
    noisy = [states + 0.3 * GENERATOR.standard_normal(states.shape).astype(np.float32) for states in STATES]
    found = compare_states(noisy, STATES, "cls")
    expected = float(np.concatenate([cosines(a, b) for a, b in zip(noisy, STATES, strict=True)]).mean())
    assert found.mean_token_cosine == pytest.approx(expected) and 0.8 < expected < 0.99
    told = objections(asdict(found), 0.999)
    assert len(told) == 3 and "mean token cosine" in told[0] and "0.999" in told[0]
    assert objections(asdict(found), 0.5) == []


def test_one_lost_text_is_seen_though_the_mean_is_high() -> None:
    many = [GENERATOR.standard_normal((1, 16)).astype(np.float32) for _ in range(200)]
    spoilt = [*many[:-1], many[-1] + 0.9 * np.abs(many[-1]).max()]
    found = asdict(compare_states(spoilt, many, "mean"))
    assert found["mean_pooled_cosine"] > 0.99 > 0.95 > found["least_pooled_cosine"]
    assert ["least pooled" in told for told in objections(found, 0.99)] == [True]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_no_direction_counts_as_the_opposite(value: float) -> None:
    spoilt = [STATES[0], np.full_like(STATES[1], value), STATES[2]]
    found = compare_states(spoilt, STATES, "mean")
    assert found.least_token_cosine == -1 and found.least_pooled_cosine == -1
    assert np.isfinite(found.relative_error) and objections(asdict(found), 0.9)


def test_same_labels() -> None:
    one = [np.array([1.0, 2.0]), np.array([3.0, 2.0])]
    other = [np.array([0.0, 2.0]), np.array([1.0, 2.0])]
    assert same_labels(one, other) == 0.5
    tokens = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert same_labels([tokens], [tokens[::-1]]) == 0.5
