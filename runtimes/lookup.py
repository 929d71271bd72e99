"""Prompt lookup decoding: what followed the last few tokens the last time they occurred is proposed again.

It needs no draft model and pays where a text repeats itself: code, edits, summaries, answers that quote.
Source: Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding (vLLM calls it n-gram speculation).
"""

from __future__ import annotations

import numpy as np

from edgeport.errors import UsageError
from edgeport.runtimes.acceptance import Acceptance, Tally
from edgeport.runtimes.pace import Pace
from edgeport.runtimes.penalties import History
from edgeport.runtimes.proposer import Clock, Proposal, Round
from edgeport.runtimes.sampling import Sampling

LONGEST_MATCH = 3
SHORTEST_MATCH = 1
MOST_PROPOSED = 16
_FIRST_PROPOSED = 3
_RETRY_STEPS = 24


class PromptLookup:
    """A Proposer without a model; one may serve many texts, one after the other.

    longest, shortest: tokens of the match, the longest one that occurs is taken. most: tokens proposed at once at most; it
    begins with few, doubles after a round that was kept whole and falls back to what was kept after one that was not.
    pace: None keeps it on whatever it costs.
    """

    def __init__(
        self,
        *,
        longest: int = LONGEST_MATCH,
        shortest: int = SHORTEST_MATCH,
        most: int = MOST_PROPOSED,
        pace: Pace | None = None,
    ) -> None:
        if not 1 <= shortest <= longest or most < 1:
            raise UsageError(
                f"a lookup of {shortest} to {longest} tokens that proposes at most {most}",
                hint="it needs 1 <= shortest <= longest, and proposes at least 1",
            )
        self._sizes = range(longest, shortest - 1, -1)
        self._most = most
        self.pace = pace
        self.clock: Clock = (pace or Pace()).clock
        self._tally = Tally()
        self._limit = min(_FIRST_PROPOSED, most)
        self._history: History | None = None
        self._followed_at: dict[tuple[int, ...], int] = {}
        self._known = 0

    @property
    def is_off(self) -> bool:
        """Whether it was found to cost more than it brings, until it is tried again."""
        return self.pace is not None and self.pace.is_off

    def acceptance(self) -> Acceptance:
        return self._tally.acceptance()

    def propose(
        self, history: History, sampling: Sampling, generator: np.random.Generator, count: int
    ) -> list[Proposal]:
        if self.pace is not None and not self.pace.wants_proposals:
            return []
        self._learn(history)
        begin = self._find(history.tokens)
        if begin is None:
            return []
        tokens = history.tokens
        proposals: list[Proposal] = []
        for place in range(begin, begin + min(count, self._limit)):
            beyond = place - len(tokens)  # a text in a circle: go on with what was just proposed
            proposals.append(Proposal(tokens[place]) if beyond < 0 else proposals[beyond])
        return proposals

    def settle(self, judged: Round) -> None:
        self._tally.add(judged.drafted, judged.kept)
        whole = judged.kept == judged.drafted
        self._limit = min(2 * self._limit, self._most) if whole else max(judged.kept, 1)
        if self.pace is not None and judged.seconds is not None:
            self.pace.add_round(judged.tokens, judged.seconds)

    def stepped_alone(self, seconds: float) -> None:
        if self.pace is not None:
            self.pace.add_plain(seconds)

    def _learn(self, history: History) -> None:
        """Note where each run of tokens was last followed by something; a run at the very end has no follower yet."""
        if history is not self._history:
            self._history, self._followed_at, self._known = history, {}, 1
        tokens = history.tokens
        for place in range(self._known, len(tokens)):
            for size in self._sizes:
                if size <= place:
                    self._followed_at[tuple(tokens[place - size : place])] = place
        self._known = max(len(tokens), 1)

    def _find(self, tokens: list[int]) -> int | None:
        """Where the longest run that ends the text was last followed by something."""
        for size in self._sizes:
            place = self._followed_at.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if place is not None:
                return place
        return None


def adaptive_lookup() -> PromptLookup:
    """As `load` uses it: measured while it runs, off where it loses, tried again now and then."""
    return PromptLookup(pace=Pace(retry_steps=_RETRY_STEPS))
