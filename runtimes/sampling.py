"""From logits to one token: the same pure functions over every engine, so that results differ only by the engine's logits.

Order: repetition penalty, temperature, top-k, top-p, min-p, draw. Temperature 0 is greedy and needs no random numbers.
Sources: CTRL (arXiv:1909.05858) for the penalty, nucleus sampling (arXiv:1904.09751), min-p (arXiv:2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token.

    temperature: 0 is greedy. top_k: keep the k likeliest, 0 keeps all. top_p: keep the fewest whose probabilities reach p.
    min_p: drop what is less likely than min_p times the likeliest. repetition_penalty: 1 is none; above 1 makes tokens that
    already occurred less likely. seed: the same seed gives the same text; None draws a new one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        rules = (
            (self.temperature >= 0, "temperature", self.temperature, "0 or more"),
            (self.top_k >= 0, "top_k", self.top_k, "0 (all) or more"),
            (0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1"),
            (0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1"),
            (self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0"),
        )
        for good, name, value, allowed in rules:
            if not good:
                raise UsageError(f"{name} is {value}, it must be {allowed}")


GREEDY = Sampling()


def choose(logits: Floats, sampling: Sampling, seen: Sequence[int], generator: np.random.Generator) -> int:
    """One token id from logits [vocab_size]; `seen` are the tokens of prompt and text so far."""
    if sampling.temperature == 0:
        return likeliest(logits, sampling, seen)
    return draw(weights(logits, sampling, seen), generator)


def likeliest(logits: Floats, sampling: Sampling, seen: Sequence[int]) -> int:
    """What greedy decoding takes."""
    return int(np.argmax(penalize_repetition(logits, seen, sampling.repetition_penalty)))


def weights(logits: Floats, sampling: Sampling, seen: Sequence[int]) -> Floats:
    """What each token is drawn with [vocab_size]; zero for what was cut off, so the sum may be under 1."""
    scores = penalize_repetition(logits, seen, sampling.repetition_penalty)
    probabilities = softmax(scores / np.float32(sampling.temperature))
    probabilities = keep_top_k(probabilities, sampling.top_k)
    probabilities = keep_top_p(probabilities, sampling.top_p)
    return keep_min_p(probabilities, sampling.min_p)


def draw(probabilities: npt.NDArray[np.floating[Any]], generator: np.random.Generator) -> int:
    """A token id with these probabilities [vocab_size], which need not add up to 1."""
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    index = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    # rounding may put the draw on the end of the sum: then take the last token that has any probability
    return int(min(index, np.flatnonzero(probabilities)[-1]))


def penalize_repetition(logits: Floats, seen: Sequence[int], penalty: float) -> Floats:
    """Positive logits of seen tokens divided by `penalty`, negative ones multiplied."""
    if penalty == 1.0 or not len(seen):
        return logits
    tokens = np.unique(np.asarray(seen, np.int64))
    scores = logits.copy()
    values = scores[tokens]
    scores[tokens] = np.where(values > 0, values / penalty, values * penalty)
    return scores


def keep_top_k(probabilities: Floats, count: int) -> Floats:
    """Zero all but the `count` likeliest; ties at the border go to the lower id."""
    if count == 0 or count >= probabilities.size:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    kept = np.zeros_like(probabilities)
    kept[order[:count]] = probabilities[order[:count]]
    return kept


def keep_top_p(probabilities: Floats, mass: float) -> Floats:
    """Zero all but the fewest likeliest tokens that together reach `mass` of what is there."""
    if mass >= 1.0:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order], dtype=np.float64)
    count = int(np.searchsorted(cumulative, mass * cumulative[-1], side="left")) + 1
    kept = np.zeros_like(probabilities)
    kept[order[:count]] = probabilities[order[:count]]
    return kept


def keep_min_p(probabilities: Floats, ratio: float) -> Floats:
    """Zero what is less likely than `ratio` times the likeliest."""
    if ratio == 0.0:
        return probabilities
    return np.where(probabilities >= ratio * probabilities.max(), probabilities, np.float32(0))


def softmax(scores: Floats) -> Floats:
    powers: Floats = np.exp(scores - scores.max())
    powers /= powers.sum()
    return powers


def log_probability(logits: Floats, token: int) -> float:
    """ln p(token) under the raw logits, in float64."""
    scores = logits.astype(np.float64)
    highest = scores.max()
    return float(scores[token] - highest - np.log(np.exp(scores - highest).sum()))
