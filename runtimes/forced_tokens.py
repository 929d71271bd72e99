"""Proposes what a constraint leaves no choice about: the key of a JSON object costs one call instead of one per token."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgeport.runtimes.constraint import Constraint
from edgeport.runtimes.lookup import PromptLookup
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
        return self._admitted(self._otherwise.propose(history, sampling, generator, count))

    def _admitted(self, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        """Without what the rules reject anyway. Drawn tokens all stay: their distribution is only right with the rejected ones."""
        if any(proposal.distribution is not None for proposal in proposals):
            return proposals
        count = self._constraint.admits([proposal.token for proposal in proposals])
        # a draft must hear what came of its proposals, a lookup has no state that is ahead of the text
        least = 0 if isinstance(self._otherwise, PromptLookup) else 1
        return proposals[: max(count, least)]

    def settle(self, judged: Round) -> None:
        if self._otherwise is not None and not self._is_forced:
            self._otherwise.settle(judged)

    def stepped_alone(self, seconds: float) -> None:
        if self._otherwise is not None:
            self._otherwise.stepped_alone(seconds)
