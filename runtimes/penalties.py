"""What changes logits before anything is cut: logit bias, and penalties for tokens that already occurred.

Order: bias, repetition, presence and frequency. Repetition is CTRL's (arXiv:1909.05858) and looks at prompt and text;
presence and frequency are OpenAI's and look at the text only (https://platform.openai.com/docs/api-reference/chat).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError

if TYPE_CHECKING:
    from edgeport.runtimes.sampling import Sampling

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]


class History:
    """The tokens of a prompt and of the text after it. Counted when a penalty first asks, then kept up to date."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self._everywhere: Counts | None = None
        self._in_text: Counts | None = None

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self._add(token, 1)

    def take_back(self, count: int) -> None:
        """Forget the last `count` tokens, which must not reach into the prompt."""
        for _ in range(count):
            self._add(self.tokens.pop(), -1)

    def everywhere(self, vocab_size: int) -> Counts:
        """How often each token occurred in prompt and text [vocab_size]. Not to be written to."""
        if self._everywhere is None:
            self._everywhere = _count(self.tokens, vocab_size)
        return self._everywhere

    def in_text(self, vocab_size: int) -> Counts:
        """The same for the generated text alone."""
        if self._in_text is None:
            self._in_text = _count(self.tokens[self.prompt_length :], vocab_size)
        return self._in_text

    def _add(self, token: int, number: int) -> None:
        for counts in (self._everywhere, self._in_text):
            if counts is not None:
                counts[token] += number


def _count(tokens: Sequence[int], vocab_size: int) -> Counts:
    return np.bincount(np.asarray(tokens, np.int64), minlength=vocab_size).astype(np.int32)


def adjust(logits: Floats, sampling: Sampling, history: History) -> Floats:
    """Logits [vocab_size] after bias and penalties: a copy, or `logits` itself where nothing is asked for."""
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    if not (sampling.logit_bias or presence or frequency or sampling.repetition_penalty != 1.0):
        return logits
    scores = logits.copy()
    if sampling.logit_bias:
        add_bias(scores, sampling.logit_bias)
    if sampling.repetition_penalty != 1.0:
        penalize_repetition(scores, history.everywhere(scores.size), sampling.repetition_penalty)
    if presence or frequency:
        penalize_occurrence(scores, history.in_text(scores.size), presence, frequency)
    return scores


def add_bias(scores: Floats, bias: Mapping[int, float]) -> None:
    """Raises UsageError for a token that the vocabulary does not have."""
    highest = max(bias)
    if highest >= scores.size:
        raise UsageError(
            f"logit_bias names token {highest}, the vocabulary has {scores.size}",
            hint="keys are token ids of this model's own tokenizer",
        )
    scores[np.fromiter(bias.keys(), np.int64)] += np.fromiter(bias.values(), np.float32)


def penalize_repetition(scores: Floats, counts: Counts, penalty: float) -> None:
    """Of tokens that occurred, positive logits are divided by `penalty` and negative ones multiplied."""
    occurred = np.flatnonzero(counts)
    values = scores[occurred]
    scores[occurred] = np.where(values > 0, values / penalty, values * penalty)


def penalize_occurrence(scores: Floats, counts: Counts, presence: float, frequency: float) -> None:
    """Tokens that occurred lose `presence` once and `frequency` for each time."""
    occurred = np.flatnonzero(counts)
    scores[occurred] -= np.float32(presence) + np.float32(frequency) * counts[occurred]
