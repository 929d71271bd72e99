"""Proposes what a constraint leaves no choice about: the key of a JSON object costs one call instead of one per token."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgeport.runtimes.constraint import Constraint
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Clock, Proposal, Proposer, Round
from edgeport.runtimes.sampling import Sampling


class ForcedTokens:
    """A Proposer for one text, over another one (or none) that is asked where there is a choice.

    The rules force bytes, which other tokens than the usual ones could spell too; the target judges, so its text stays.
    """

    def __init__(self, constraint: Constraint, otherwise: Proposer | None) -> None:
        self._constraint, self._otherwise = constraint, otherwise
        self.clock: Clock = time.perf_counter if otherwise is None else otherwise.clock
        self._is_forced = False

    def propose(
        self, history: History, sampling: Sampling, generator: np.random.Generator, count: int
    ) -> Sequence[Proposal]:
        forced = self._constraint.forced()[:count]
        self._is_forced = bool(forced)
        if forced:
            return [Proposal(token) for token in forced]
        if self._otherwise is None:
            return ()
        return self._otherwise.propose(history, sampling, generator, count)

    def settle(self, judged: Round) -> None:
        if self._otherwise is not None and not self._is_forced:
            self._otherwise.settle(judged)

    def stepped_alone(self, seconds: float) -> None:
        if self._otherwise is not None:
            self._otherwise.stepped_alone(seconds)
