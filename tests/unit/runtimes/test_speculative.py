"""Speculative decoding over sessions whose logits are a table: whatever the draft says, the text is the target's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import pytest
from table_session import Table, table

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes import speculative
from edgeport.runtimes.distribution import Distribution
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.pace import DRAFTED_STEPS, Pace
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Proposal, Proposer
from edgeport.runtimes.sampling import GREEDY, Sampling
from edgeport.runtimes.speculative import Choice, measure_acceptance, write

PROMPT = [1, 0, 2]


def near(logits: np.ndarray, noise: float) -> np.ndarray:
    """A draft that is often right."""
    return logits + np.random.default_rng(99).normal(size=logits.shape) * noise


def greedy(logits: np.ndarray, count: int) -> list[int]:
    """Written without the code under test."""
    tokens = list(PROMPT)
    for _ in range(count):
        tokens.append(int(logits.astype(np.float32)[tokens[-2], tokens[-1]].argmax()))
    return tokens[len(PROMPT) :]


def speculate(target: Table, proposer: Proposer, sampling: Sampling, count: int) -> Generator[Choice]:
    return write(target, History(PROMPT), sampling, count, proposer=proposer)


def text(target: Table, draft: Table, count: int, drafted_tokens: int = 4) -> list[int]:
    helper = Draft(draft, target, drafted_tokens)
    return [token for token, _ in speculate(target, helper, GREEDY, count)]


@pytest.mark.parametrize("drafted_tokens", [1, 2, 4, 7])
@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0, 1e6], ids=["equal", "near", "far", "wrong"])
def test_greedy_text_is_the_targets(noise: float, drafted_tokens: int) -> None:
    for seed, count in itertools.product(range(3), (1, 2, 5, 23)):
        logits = table(seed)
        target, draft = Table(logits), Table(near(logits, noise))
        assert text(target, draft, count, drafted_tokens) == greedy(logits, count)
        assert target.fed == PROMPT + greedy(logits, count)[:-1], "all but the last token, as without a draft"


def test_each_token_comes_with_the_targets_logits() -> None:
    logits = table(4)
    target, draft = Table(logits), Table(near(logits, 0.7))
    tokens = list(PROMPT)
    for token, row in speculate(target, Draft(draft, target), GREEDY, 20):
        np.testing.assert_array_equal(row, logits[tokens[-2], tokens[-1]].astype(np.float32))
        tokens.append(token)


def test_an_equal_draft_is_always_right_and_saves_calls() -> None:
    logits = table(1)
    target = Table(logits)
    found = measure_acceptance(target, Table(logits), [PROMPT], 21, drafted_tokens=4)
    assert (found.rate, found.tokens_per_step, found.steps) == (1.0, 5.0, 4)
    assert target.calls == 1 + 4


def test_a_wrong_draft_is_never_right() -> None:
    logits = table(1)
    found = measure_acceptance(Table(logits), Table(-logits), [PROMPT], 20)
    assert (found.rate, found.tokens_per_step, found.accepted) == (0.0, 1.0, 0)
    assert found.judged == found.steps, "what comes after a rejected proposal is judged by nobody"


def test_the_rate_predicts_the_tokens_per_step() -> None:
    """Equation 1 of arXiv:2211.17192, E = (1 - alpha^(k + 1)) / (1 - alpha), which assumes independent proposals."""
    logits = table(5, 24)
    prompts = [[first, 0, second] for first in range(8) for second in range(8)]
    found = measure_acceptance(
        Table(logits), Table(near(logits, 0.6)), prompts, 40, sampling=Sampling(temperature=1.0, seed=3)
    )
    expected = (1 - found.rate**5) / (1 - found.rate)
    assert 0.3 < found.rate < 0.95
    assert found.tokens_per_step == pytest.approx(expected, rel=0.08)


SAMPLING = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=3),
    Sampling(1.3, top_p=0.8, min_p=0.05),
]
TEXTS, LENGTH, VOCAB = 2500, 3, 4


def chi_square_excess(sampling: Sampling, draft_noise: float) -> float:
    """Chi-square of texts of three tokens against the target's exact distribution, in standard deviations above its mean."""
    logits = table(8, VOCAB)
    target, draft = Table(logits), Table(near(logits, draft_noise))
    helper = Draft(draft, target, 2)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(TEXTS):
        target.rewind(0)
        draft.rewind(0)
        settings = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, seed=seed)
        found = tuple(token for token, _ in speculate(target, helper, settings, LENGTH))
        counts[found] = counts.get(found, 0) + 1
    expected = {text: TEXTS * p for text, p in exact_distribution(logits, sampling).items()}
    assert set(counts) <= set(expected), "a text that the target cannot write"
    cells = [text for text, count in expected.items() if count >= 5]
    statistic = sum((counts.get(text, 0) - expected[text]) ** 2 / expected[text] for text in cells)
    freedom = len(cells) - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def exact_distribution(logits: np.ndarray, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Every text and its probability, by enumeration: temperature, top-k, top-p, min-p written once more."""
    found = {}
    for text in itertools.product(range(VOCAB), repeat=LENGTH):
        tokens, probability = list(PROMPT), 1.0
        for token in text:
            probability *= one_step(logits[tokens[-2], tokens[-1]], sampling)[token]
            tokens.append(token)
        if probability > 0:
            found[text] = probability
    return found


def one_step(logits: np.ndarray, sampling: Sampling) -> list[float]:
    scores = [float(np.exp(value / sampling.temperature)) for value in logits]
    shares = [score / sum(scores) for score in scores]
    order = sorted(range(len(shares)), key=lambda token: -shares[token])
    kept = order[: sampling.top_k or None]
    mass, nucleus = 0.0, []
    for token in kept:
        nucleus.append(token)
        mass += shares[token]
        if mass >= sampling.top_p * sum(shares[item] for item in kept):
            break
    kept = [token for token in nucleus if shares[token] >= sampling.min_p * shares[order[0]]]
    total = sum(shares[token] for token in kept)
    return [shares[token] / total if token in kept else 0.0 for token in range(len(shares))]


@pytest.mark.parametrize(
    ("sampling", "noise"), list(zip(SAMPLING, (3.0, 3.0, 0.5), strict=True)), ids=["plain", "top-k", "top-p"]
)
def test_sampled_text_follows_the_targets_distribution(sampling: Sampling, noise: float) -> None:
    assert chi_square_excess(sampling, noise) < 3.5


def keeps_everything(self: object, proposal: Proposal, logits: np.ndarray) -> int:
    return proposal.token


def redraws_from_the_target(self: speculative._Text, proposal: Proposal, logits: np.ndarray) -> int:
    """The plausible mistake: a rejected token is replaced by a draw from p instead of what p has above q."""
    powers = np.exp(logits.astype(np.float64))
    wished = Distribution(np.arange(logits.size), powers / powers.sum())
    assert proposal.distribution is not None
    drafted = proposal.distribution.probability(proposal.token)
    if self._generator.random() * drafted < wished.probability(proposal.token):
        return proposal.token
    return wished.draw(self._generator)


@pytest.mark.parametrize("fault", [keeps_everything, redraws_from_the_target])
def test_a_wrong_judge_is_seen(fault: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative._Text, "_judge", fault)
    assert chi_square_excess(SAMPLING[0], 3.0) > 6


class NoRepeats:
    """A constraint over the tables: never the same token twice in a row, never token 0; complete after `length` tokens."""

    def __init__(self, vocab_size: int, length: int = 1000) -> None:
        self._size, self._length, self._text = vocab_size, length, [0]

    def allowed(self) -> np.ndarray:
        mask = np.ones(self._size, np.bool_)
        mask[[0, self._text[-1]]] = False
        return mask

    def accept(self, token: int) -> None:
        assert self.allowed()[token]
        self._text.append(token)

    @property
    def is_complete(self) -> bool:
        return len(self._text) > self._length

    def forced(self) -> list[int]:
        return []

    def admits(self, tokens: Sequence[int]) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("noise", [0.0, 0.5, 1e6], ids=["equal", "near", "wrong"])
@pytest.mark.parametrize("length", [1000, 7])
def test_the_target_judges_under_the_constraint(noise: float, length: int) -> None:
    for seed in range(3):
        logits = table(seed)
        expected, tokens = [], list(PROMPT)
        while len(expected) < min(23, length):
            row = logits.astype(np.float32)[tokens[-2], tokens[-1]].copy()
            row[[0, expected[-1] if expected else 0]] = -np.inf
            expected.append(int(row.argmax()))
            tokens.append(expected[-1])
        target, draft = Table(logits), Table(near(logits, noise))
        choices = write(target, History(PROMPT), GREEDY, 23, NoRepeats(12, length), Draft(draft, target))
        assert [token for token, _ in choices] == expected
        assert target.fed == PROMPT + expected[:-1]


def test_sampled_text_under_a_constraint_follows_its_distribution() -> None:
    """Against the exact distribution of two tokens: each step is the target's softmax over what is allowed."""
    logits = table(8, VOCAB)
    target, draft = Table(logits), Table(near(logits, 2.0))
    helper, counts = Draft(draft, target, 2), np.zeros((VOCAB, VOCAB))
    for seed in range(TEXTS):
        target.rewind(0)
        draft.rewind(0)
        sampling = Sampling(temperature=1.0, seed=seed)
        choices = write(target, History(PROMPT), sampling, 2, NoRepeats(VOCAB), helper)
        first, second = (token for token, _ in choices)
        counts[first, second] += 1
    expected = np.zeros((VOCAB, VOCAB))
    for first in range(1, VOCAB):
        start = np.exp(logits[PROMPT[-2], PROMPT[-1]])
        follow = np.exp(logits[PROMPT[-1], first])
        follow[[0, first]] = 0
        expected[first] = start[first] / start[1:].sum() * follow / follow.sum()
    assert (counts[expected == 0] == 0).all()
    cells = expected > 0
    statistic = float((((counts - TEXTS * expected) ** 2)[cells] / (TEXTS * expected[cells])).sum())
    freedom = int(cells.sum()) - 1
    assert (statistic - freedom) / np.sqrt(2 * freedom) < 3.5


class Stubborn(Table):
    """A model with a recurrent state: it can only go back to the beginning."""

    def rewind(self, position: int) -> None:
        if position not in (0, self.position):
            raise RuntimeFailure("cannot rewind this model")
        super().rewind(position)


@pytest.mark.parametrize("who", ["target", "draft"])
def test_a_model_that_cannot_go_back_part_of_the_way_reads_its_text_again(who: str) -> None:
    for seed in range(3):
        logits = table(seed)
        target = (Stubborn if who == "target" else Table)(logits)
        draft = (Stubborn if who == "draft" else Table)(near(logits, 0.5))
        assert text(target, draft, 23) == greedy(logits, 23)
        assert target.fed == PROMPT + greedy(logits, 23)[:-1]


def test_someone_who_stops_within_a_round_leaves_the_session_as_without_a_draft() -> None:
    logits = table(1)
    for taken in range(1, 12):
        target = Table(logits)
        choices = speculate(target, Draft(Table(logits), target), GREEDY, 30)
        tokens = [next(choices)[0] for _ in range(taken)]
        choices.close()
        assert target.fed == PROMPT + tokens[:-1]


@pytest.mark.parametrize(("target_context", "draft_context"), [(12, 64), (64, 12), (10, 10), (64, 3)])
def test_a_full_context_is_no_error(target_context: int, draft_context: int) -> None:
    logits = table(2)
    room = min(target_context - len(PROMPT) + 1, 20)
    for drafted_tokens in (1, 4, 30):
        target = Table(logits, target_context)
        draft = Table(near(logits, 0.4), draft_context)
        assert text(target, draft, room, drafted_tokens) == greedy(logits, room)


def test_a_repetition_penalty_is_applied_to_both() -> None:
    logits = table(3)
    sampling = Sampling(repetition_penalty=1.7)
    plain = [token for token, _ in speculate(*_pair(logits, -logits), sampling, 20)]
    drafted = [token for token, _ in speculate(*_pair(logits, logits), sampling, 20)]
    assert plain == drafted != greedy(logits, 20)


def _pair(target_logits: np.ndarray, draft_logits: np.ndarray) -> tuple[Table, Draft]:
    target = Table(target_logits)
    return target, Draft(Table(draft_logits), target)


def test_what_does_not_belong_together_is_refused() -> None:
    target = Table(table(1, 12))
    with pytest.raises(UsageError, match="vocabulary of 8 tokens, the model one of 12"):
        Draft(Table(table(1, 8)), target)
    with pytest.raises(UsageError, match="drafted_tokens is 0"):
        Draft(Table(table(1, 12)), target, 0)
    draft = Draft(Table(table(1, 12)), target)
    draft.session.feed([*PROMPT, 1])
    with pytest.raises(UsageError, match="the draft is at position 4, in a text of 4 tokens"):
        list(speculate(target, draft, GREEDY, 4))
    target.feed([1, 1, 1])
    with pytest.raises(UsageError, match="at position 6, in a prompt of 3 tokens"):
        list(speculate(target, draft, GREEDY, 4))


@pytest.mark.parametrize(("held", "drafted"), [(0, 2), (2, 0), (2, 1), (1, 2)])
def test_what_the_sessions_hold_is_not_fed_again(held: int, drafted: int) -> None:
    logits = table(6)
    target, draft = Table(logits), Table(near(logits, 0.5))
    target.fed, draft.fed = PROMPT[:held], PROMPT[:drafted]
    assert text(target, draft, 12) == greedy(logits, 12)
    assert target.fed == PROMPT + greedy(logits, 12)[:-1]


class Clock:
    """Time that passes by calls: so much for each call of the target and of the draft."""

    def __init__(self, target: Table, draft: Table, target_s: float, draft_s: float) -> None:
        self._parts = ((target, target_s), (draft, draft_s))

    def __call__(self) -> float:
        return sum(session.calls * seconds for session, seconds in self._parts)


@pytest.mark.parametrize(
    ("draft_s", "noise", "is_off"),
    [(0.05, 0.0, False), (2.0, 0.0, True), (0.05, 1e6, True)],
    ids=["cheap and right", "dear", "cheap and wrong"],
)
def test_a_draft_that_loses_time_is_switched_off(draft_s: float, noise: float, is_off: bool) -> None:
    logits = table(6)
    target, draft = Table(logits, 400), Table(near(logits, noise), 400)
    pace = Pace(Clock(target, draft, 1.0, draft_s))
    helper = Draft(draft, target, 4, pace)
    tokens = [token for token, _ in speculate(target, helper, GREEDY, 200)]
    assert tokens == greedy(logits, 200)
    assert (helper.is_off, pace.is_decided) == (is_off, True)
    if is_off:
        assert helper.acceptance().steps == DRAFTED_STEPS, "no proposal after the decision"
        assert pace.speedup is not None and pace.speedup < 1
    else:
        assert pace.speedup == pytest.approx(5 / (1 + 4 * draft_s))
        assert helper.acceptance().steps > DRAFTED_STEPS


def test_the_decision_holds_for_later_texts() -> None:
    logits = table(6)
    target, draft = Table(logits, 400), Table(-logits, 400)
    helper = Draft(draft, target, 4, Pace(Clock(target, draft, 1.0, 1.0)))
    for _ in texts(target, draft, 2):
        list(speculate(target, helper, GREEDY, 100))
    assert helper.is_off and helper.acceptance().steps == DRAFTED_STEPS


def test_the_trial_may_span_short_texts() -> None:
    logits = table(6)
    target, draft = Table(logits), Table(logits)
    helper = Draft(draft, target, 2, Pace(Clock(target, draft, 1.0, 0.01)))
    for number in texts(target, draft, 20):
        tokens = [token for token, _ in speculate(target, helper, GREEDY, 5)]
        assert tokens == greedy(logits, 5), number
    assert helper.pace is not None and helper.pace.is_decided and not helper.is_off


def texts(target: Table, draft: Table, count: int) -> Iterator[int]:
    for number in range(count):
        target.rewind(0)
        draft.rewind(0)
        yield number
