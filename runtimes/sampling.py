"""From logits to one token: the same pure functions over every engine, so that results differ only by the engine's logits.

Order: logit bias, repetition, presence and frequency penalties, what a constraint allows, temperature, top-k, top-p, min-p,
draw. Temperature 0 is greedy and needs no random numbers; above it each token takes one. docs/sampling.md has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.runtimes.distribution import Distribution, Indices, draw, min_p, softmax, top_k, top_p
from edgeport.runtimes.penalties import Floats, History, adjust

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token.

    temperature: 0 is greedy. top_k: keep the k likeliest, 0 keeps all. top_p: keep the fewest whose probabilities reach p.
    min_p: drop what is less likely than min_p times the likeliest. repetition_penalty: 1 is none; above 1 makes tokens that
    already occurred in prompt or text less likely. presence_penalty, frequency_penalty: taken from the logit of a token that
    occurred in the text, once and for each time; 0 is none. seed: the same seed gives the same text; None draws a new one.
    logit_bias: added to the logits of these token ids; -inf forbids one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bias = self.logit_bias
        rules = (
            (0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more"),
            (self.top_k >= 0, "top_k", self.top_k, "0 (all) or more"),
            (0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1"),
            (0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1"),
            (0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0"),
            (math.isfinite(self.presence_penalty), "presence_penalty", self.presence_penalty, "a number"),
            (math.isfinite(self.frequency_penalty), "frequency_penalty", self.frequency_penalty, "a number"),
            (all(token >= 0 for token in bias), "logit_bias", dict(bias), "from token ids, 0 or more"),
            (all(-math.inf <= b < math.inf for b in bias.values()), "logit_bias", dict(bias), "to numbers or -inf"),
        )  # fmt: skip
        for good, name, value, allowed in rules:
            if not good:
                raise UsageError(f"{name} is {value}, it must be {allowed}")


GREEDY = Sampling()


def choose(
    logits: Floats,
    sampling: Sampling,
    history: History,
    generator: np.random.Generator,
    allowed: Mask | None = None,
) -> int:
    """One token id from logits [vocab_size]. allowed: [vocab_size], the tokens a constraint permits, at least one."""
    if sampling.temperature == 0:
        return likeliest(logits, sampling, history, allowed)
    tokens, weights = _cut(logits, sampling, history, allowed)
    index = draw(weights, generator)
    return index if tokens is None else int(tokens[index])


def likeliest(logits: Floats, sampling: Sampling, history: History, allowed: Mask | None = None) -> int:
    """What greedy decoding takes; the lowest id of equals."""
    scores = adjust(logits, sampling, history)
    if allowed is None:
        return int(np.argmax(scores))
    tokens = np.flatnonzero(allowed)
    return int(tokens[np.argmax(scores[tokens])])


def distribution(
    logits: Floats, sampling: Sampling, history: History, allowed: Mask | None = None
) -> Distribution:
    """What the next token is drawn from, at a temperature above 0."""
    tokens, weights = _cut(logits, sampling, history, allowed)
    wide = weights.astype(np.float64)
    return Distribution(np.arange(wide.size) if tokens is None else tokens, wide / wide.sum())


def _cut(
    logits: Floats, sampling: Sampling, history: History, allowed: Mask | None
) -> tuple[Indices | None, Floats]:
    """Tokens that are left, None for all, and their probabilities up to a factor."""
    scores = adjust(logits, sampling, history)
    tokens = None
    if allowed is not None:
        tokens = np.flatnonzero(allowed)
        scores = scores[tokens]
    tokens, scores = _keep(top_k(scores, sampling.top_k), tokens, scores)
    weights = softmax(scores, sampling.temperature)
    tokens, weights = _keep(top_p(weights, sampling.top_p), tokens, weights)
    return _keep(min_p(weights, sampling.min_p), tokens, weights)


def _keep(kept: Indices | None, tokens: Indices | None, values: Floats) -> tuple[Indices | None, Floats]:
    if kept is None:
        return tokens, values
    return kept if tokens is None else tokens[kept], values[kept]


def log_probability(logits: Floats, token: int) -> float:
    """ln p(token) under the raw logits."""
    return float(logits[token]) - _log_of_sum(logits)


def top_log_probabilities(logits: Floats, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens under the raw logits with their ln p, the likeliest first; lower ids first of equals."""
    kept = top_k(logits, count)
    tokens = np.arange(logits.size) if kept is None else kept
    ordered = tokens[np.argsort(-logits[tokens], kind="stable")][:count]
    total = _log_of_sum(logits)
    return tuple((int(token), float(logits[token]) - total) for token in ordered)


def _log_of_sum(logits: Floats) -> float:
    """ln of the sum of e^logit: single powers in float32, which is exact enough, their sum in float64."""
    highest = logits.max()
    return float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
