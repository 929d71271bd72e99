"""Prompt lookup: what is proposed, and that the text is the one without it, greedy and sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from table_session import Table, table

from edgeport.errors import UsageError
from edgeport.runtimes.lookup import PromptLookup, adaptive_lookup
from edgeport.runtimes.pace import DRAFTED_STEPS, PLAIN_STEPS, Pace
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Round
from edgeport.runtimes.sampling import GREEDY, Sampling
from edgeport.runtimes.speculative import write

GENERATOR = np.random.default_rng(0)


def proposed(lookup: PromptLookup, tokens: list[int], count: int = 99) -> list[int]:
    return [item.token for item in lookup.propose(History(tokens), GREEDY, GENERATOR, count)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], [4, 5, 1]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], [5, 1, 2]),  # the latest of two
        ([1, 2, 9, 7, 2, 8, 6, 1, 2], [9, 7, 2]),  # a longer match before a later one
        ([5, 6, 7, 5], [6, 7, 5]),  # one token is enough
        ([4, 4], [4, 4, 4]),  # a circle goes on
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_what_followed_the_latest_longest_match_is_proposed(tokens: list[int], expected: list[int]) -> None:
    assert proposed(PromptLookup(), tokens) == expected


def test_sizes_and_counts_are_kept_to() -> None:
    tokens = [1, 2, 9, 9, 2, 3, 4, 1, 2]
    assert proposed(PromptLookup(shortest=2), tokens) == [9, 9, 2]
    assert proposed(PromptLookup(longest=1), tokens) == [3, 4, 1], "the later match of one token"
    assert proposed(PromptLookup(shortest=3), tokens) == []
    assert proposed(PromptLookup(), tokens, count=1) == [9]
    assert proposed(PromptLookup(most=2), tokens) == [9, 9]


def test_it_follows_a_text_that_grows_and_forgets_the_text_before() -> None:
    lookup, history = PromptLookup(), History([1, 2, 3])
    assert not lookup.propose(history, GREEDY, GENERATOR, 9)
    for token in (7, 8, 1, 2):
        history.append(token)
    assert [item.token for item in lookup.propose(history, GREEDY, GENERATOR, 9)] == [3, 7, 8]
    assert proposed(PromptLookup(), [0, 1, 2] * 3 + [0, 1]) == [2, 0, 1]
    assert proposed(lookup, [9, 9, 5, 1, 2]) == [], "another text"


def test_it_proposes_more_after_a_round_that_was_kept_whole_and_less_after_one_that_was_not() -> None:
    lookup, tokens = PromptLookup(most=10), [1, 2] * 30
    sizes = []
    for kept_share in (1, 1, 1, 0.5, 1, 0):
        size = len(proposed(lookup, tokens))
        sizes.append(size)
        lookup.settle(Round(size, int(size * kept_share), 0, None))
    assert [*sizes, len(proposed(lookup, tokens))] == [3, 6, 10, 10, 5, 10, 1]


def alone(logits: np.ndarray, prompt: list[int], sampling: Sampling, count: int) -> list[int]:
    return [token for token, _ in write(Table(logits, 400), History(prompt), sampling, count)]


@pytest.mark.parametrize("most", [1, 3, 16])
def test_the_text_is_the_same_and_takes_fewer_calls(most: int) -> None:
    """Tables walk in circles sooner or later, and a circle is found."""
    saved = 0
    for seed in range(4):
        logits, prompt = table(seed), [1, 0, 2]
        for sampling in (GREEDY, Sampling(temperature=0.3, seed=seed), Sampling(0.5, top_k=2, seed=seed)):
            target, expected = Table(logits, 400), alone(logits, prompt, sampling, 200)
            lookup = PromptLookup(most=most)
            choices = write(target, History(prompt), sampling, 200, proposer=lookup)
            assert [token for token, _ in choices] == expected
            assert target.fed == prompt + expected[:-1]
            assert target.calls == 200 - lookup.acceptance().accepted
            saved += lookup.acceptance().accepted
    assert saved > 300


def test_penalties_are_those_of_the_text_so_far() -> None:
    logits, prompt = table(2), [1, 0, 2] * 4
    sampling = Sampling(frequency_penalty=0.2, repetition_penalty=1.1)
    lookup = PromptLookup()
    choices = write(Table(logits, 400), History(prompt), sampling, 100, proposer=lookup)
    assert [token for token, _ in choices] == alone(logits, prompt, sampling, 100)
    assert lookup.acceptance().drafted > 0


@pytest.mark.parametrize("taken", range(1, 14))
def test_someone_who_stops_leaves_the_session_as_without_a_lookup(taken: int) -> None:
    logits, prompt = table(1), [1, 0, 2, 1, 0, 2, 1, 0]
    target = Table(logits)
    choices = write(target, History(prompt), GREEDY, 40, proposer=PromptLookup())
    tokens = [next(choices)[0] for _ in range(taken)]
    choices.close()
    assert target.fed == prompt + tokens[:-1]


def test_a_full_context_is_no_error() -> None:
    logits, prompt = table(1), [1, 0, 2, 1, 0, 2]
    for context in range(8, 20):
        target = Table(logits, context)
        room = context - len(prompt) + 1
        choices = write(target, History(prompt), GREEDY, room, proposer=PromptLookup())
        assert [token for token, _ in choices] == alone(logits, prompt, GREEDY, room)


class Timed(Table):
    """Time passes with each call, each token of a call, and each rewind."""

    def __init__(self, logits: np.ndarray, call_s: float, token_s: float, rewind_s: float) -> None:
        super().__init__(logits, 3000)
        self.now, self._call_s, self._token_s, self._rewind_s = 0.0, call_s, token_s, rewind_s

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        self.now += self._call_s + len(tokens) * self._token_s
        return super().feed(tokens, all_logits=all_logits)

    def rewind(self, position: int) -> None:
        self.now += self._rewind_s
        super().rewind(position)


@pytest.mark.parametrize(
    ("costs", "is_off"),
    [((1.0, 0.02, 0.0), False), ((0.0, 1.0, 0.0), True), ((1.0, 0.02, 3.0), True)],
    ids=["cheap", "each token costs", "rewinding costs"],
)
def test_it_is_switched_off_where_it_loses_and_tried_again(
    costs: tuple[float, float, float], is_off: bool
) -> None:
    """A text that repeats itself half of the time: whether its proposals pay is for the clock to say."""
    logits, prompt = table(3), [1, 0, 2]
    sampling = Sampling(temperature=0.8, seed=5)
    target = Timed(logits, *costs)
    lookup = PromptLookup(pace=Pace(lambda: target.now, retry_steps=24))
    choices = write(target, History(prompt), sampling, 2000, proposer=lookup)
    assert [token for token, _ in choices] == [
        token for token, _ in write(Table(logits, 3000), History(prompt), sampling, 2000)
    ]
    steps = lookup.acceptance().steps
    assert lookup.is_off == is_off
    assert DRAFTED_STEPS < steps < 80 if is_off else steps > 500


def test_the_one_that_load_uses_measures_first() -> None:
    lookup, tokens = adaptive_lookup(), [1, 2, 3, 1, 2]
    assert not proposed(lookup, tokens)
    for _ in range(PLAIN_STEPS):
        lookup.stepped_alone(1.0)
    assert proposed(lookup, tokens) == [3, 1, 2]


@pytest.mark.parametrize("wrong", [{"shortest": 0}, {"longest": 2, "shortest": 3}, {"most": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="lookup of"):
        PromptLookup(**wrong)
