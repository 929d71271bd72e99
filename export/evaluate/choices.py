"""Log probability of given continuations on any session: what multiple choice, classification and lm_eval ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes.session import Session

LOGIT_ROWS = 256
"""Tokens whose logits are held at once: with a vocabulary of 150,000 these are 150 MB."""


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """log_probability: sum over the continuation's tokens, in nats. greedy: every token of it is the argmax."""

    log_probability: float
    greedy: bool


class Scorer:
    """A session that remembers the tokens it holds, so that a shared beginning is fed once. Not thread-safe."""

    def __init__(self, session: Session) -> None:
        self.session = session
        session.rewind(0)
        self._held: list[int] = []

    def feed_to(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Hold exactly `tokens`; returns the last one's logits [1, vocab_size]. Raises UsageError when there is none."""
        if not tokens:
            raise UsageError("there is nothing to condition on: the prompt has no tokens")
        common = min(common_length(self._held, tokens), len(tokens) - 1)
        self._rewind(common)
        return self._feed(tokens[common:])[-1:]

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Append tokens; returns logits [len(tokens), vocab_size]."""
        return self._feed(tokens, all_logits=True)

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[ContinuationScore]:
        """Each continuation after the same prefix of at least one token.

        Raises RuntimeFailure when the engine's logits are not finite or the tokens do not fit its context.
        """
        first = self.feed_to(prefix)
        scores = []
        for continuation in continuations:
            self._rewind(len(prefix))
            scores.append(self._score_after(first, continuation))
        return scores

    def _score_after(self, first: npt.NDArray[np.float32], continuation: Sequence[int]) -> ContinuationScore:
        rows, total, greedy = first, 0.0, True
        for start in range(0, len(continuation), LOGIT_ROWS):
            piece = continuation[start : start + LOGIT_ROWS]
            # the last token of all predicts nothing that is asked for
            fed = piece if start + LOGIT_ROWS < len(continuation) else piece[:-1]
            if fed:
                rows = np.concatenate([rows, self.feed(fed)])
            part, part_greedy = log_probabilities(rows[: len(piece)], piece)
            total, greedy = total + part, greedy and part_greedy
            rows = rows[-1:]
        return ContinuationScore(total, greedy)

    def _feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> npt.NDArray[np.float32]:
        logits = self.session.feed(tokens, all_logits=all_logits)
        self._held.extend(tokens)
        return logits

    def _rewind(self, position: int) -> None:
        self.session.rewind(position)
        del self._held[position:]


def log_probabilities(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> tuple[float, bool]:
    """Sum of ln p of tokens [n] under logits [n, vocab_size], in float64, and whether all are the argmax."""
    total, greedy = 0.0, True
    for row, token in zip(logits, tokens, strict=True):
        if not np.isfinite(row).all():
            raise RuntimeFailure("the engine returned logits that are not finite")
        values = row.astype(np.float64) - float(row.max())
        total += float(values[token] - np.log(np.exp(values).sum()))
        greedy = greedy and int(row.argmax()) == token
    return total, greedy


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
