"""The loop detector says yes to loops and no to repetition that ends, that counts, or that is short."""

from __future__ import annotations

import random

import pytest

from edgeport.export.evaluate.repetition import LEAST_TOKENS, ends_in_loop, find_loop


@pytest.mark.parametrize("period", [1, 2, 3, 7, 16, 40, 64])
def test_a_phrase_repeated_to_the_end_is_a_loop(period: int) -> None:
    start, phrase = list(range(1000, 1030)), list(range(period))
    loop = find_loop(start + phrase * max(4, LEAST_TOKENS))
    assert loop is not None and loop.period == period and loop.copies >= 4


def test_the_cut_may_fall_inside_the_phrase() -> None:
    assert ends_in_loop([9, 8, *([1, 2, 3, 4, 5, 6, 7] * 5), 1, 2])


def test_the_shortest_period_is_named_and_the_start_does_not_count() -> None:
    loop = find_loop([5, 6, *([1, 2] * 20)])
    assert loop is not None and (loop.period, loop.tokens, loop.copies) == (2, 40, 20)


def test_a_text_without_repetition_is_none() -> None:
    assert not ends_in_loop([])
    assert not ends_in_loop([1])
    assert not ends_in_loop(list(range(500)))
    generator = random.Random(1)
    assert not any(ends_in_loop([generator.randrange(50) for _ in range(200)]) for _ in range(200))


def test_a_loop_that_the_model_left_is_none() -> None:
    assert ends_in_loop([1, 2, 3] * 30)
    assert not ends_in_loop([1, 2, 3] * 30 + [99])  # 99: a stop token, or the text going on


def test_short_repetition_is_none() -> None:
    assert not ends_in_loop([1, 2] * 4)  # Holtzman's rule would say yes; code and tables do this
    assert not ends_in_loop([7] * (LEAST_TOKENS - 1)) and ends_in_loop([7] * LEAST_TOKENS)
    phrase = list(range(20))
    assert not ends_in_loop(phrase * 3) and ends_in_loop(phrase * 4)


def test_a_counting_loop_is_not_seen() -> None:
    tokens = [token for number in range(30) for token in (1, 2, 100 + number, 3)]
    assert not ends_in_loop(tokens)
