"""What speculative decoding asks of whoever proposes tokens: a draft model, a look back into the text, a grammar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeport.runtimes.distribution import Distribution
from edgeport.runtimes.penalties import History
from edgeport.runtimes.sampling import Sampling

Clock = Callable[[], float]
"""Seconds since some moment, as time.perf_counter."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """distribution: what the token was drawn from; None when it was not drawn (greedy, or looked up)."""

    token: int
    distribution: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One call of the target that judged proposals.

    drafted: proposals. kept: those the target kept. position: what the target holds now, all but the last token of the text.
    seconds: what the round took, from asking for proposals to the target's rewind; None when nobody waited for its end.
    """

    drafted: int
    kept: int
    position: int
    seconds: float | None

    @property
    def tokens(self) -> int:
        """Tokens of text a whole round brings: the target adds one of its own."""
        return self.kept + 1


class Proposer(Protocol):
    """Proposes what may come next, and hears what came of it."""

    @property
    def clock(self) -> Clock: ...

    def propose(
        self, history: History, sampling: Sampling, generator: np.random.Generator, count: int
    ) -> Sequence[Proposal]:
        """One to `count` tokens to follow `history`, or none: the target then makes a step alone. Leaves `history` as it was."""
        ...

    def settle(self, judged: Round) -> None:
        """What the target made of the last proposals. Own state beyond `judged.position` is to be forgotten."""
        ...

    def stepped_alone(self, seconds: float) -> None:
        """The target made a step of one token without proposals."""
        ...
