"""Whether proposals pay: tokens per second with them and without, measured while a text is written.

Judging several tokens in one call is cheap where reading the weights is what costs, and as dear as writing them where
arithmetic is; an engine may also take long to rewind. Nothing but the clock knows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

PLAIN_STEPS = 6
DRAFTED_STEPS = 8
_WARM_UP_STEPS = 2
"""Of each kind, not counted: a draft reads the prompt in its first one."""
RETRIED_STEPS = 4
_WINDOW_STEPS = 24
_LONGEST_WAIT_STEPS = 2048
_INTERRUPTED = 4.0
"""A step that took this many times the median waited for something else on the machine."""


@dataclass(slots=True)
class _Steps:
    """The latest steps of one kind."""

    latest: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW_STEPS))
    seen: int = 0

    def add(self, tokens: int, seconds: float) -> None:
        self.seen += 1
        if self.seen > _WARM_UP_STEPS:
            self.latest.append((tokens, seconds))

    def tokens_per_s(self) -> float:
        """Rounds differ in length, so the mean of both; without the steps that something else interrupted."""
        typical_s = median(seconds for _, seconds in self.latest)
        usual = [(tokens, seconds) for tokens, seconds in self.latest if seconds <= _INTERRUPTED * typical_s]
        mean_s = mean(seconds for _, seconds in usual)
        return mean(tokens for tokens, _ in usual) / mean_s if mean_s > 0 else 0.0


@dataclass(slots=True)
class Pace:
    """First some steps of the target alone, then some rounds with proposals, then a decision.

    retry_steps: None lets the decision stand for as long as this object does, right for a draft that would first have to
    read what it missed. A number keeps measuring: what lost is tried again after so many steps alone, then after twice
    as many, and so on while it loses.
    """

    clock: Callable[[], float] = time.perf_counter
    retry_steps: int | None = None
    _without: _Steps = field(default_factory=_Steps)
    _with: _Steps = field(default_factory=_Steps)
    _rounds: int = 0  # of the present trial
    _lost: bool = False
    _waited: int = 0
    _wait: int = 0

    @property
    def is_decided(self) -> bool:
        return self._rounds >= DRAFTED_STEPS

    @property
    def is_off(self) -> bool:
        return self._lost

    @property
    def wants_proposals(self) -> bool:
        """Whether the next step should be a round with proposals."""
        if self._without.seen < PLAIN_STEPS:
            return False
        return not self._lost or (self.retry_steps is not None and self._waited >= self._wait)

    @property
    def speedup(self) -> float | None:
        """Tokens per second with proposals over without, once it was measured."""
        return self._with.tokens_per_s() / self._without.tokens_per_s() if self.is_decided else None

    def add_plain(self, seconds: float) -> None:
        """A step of the target alone."""
        if self.retry_steps is not None or not self.is_decided:
            self._without.add(1, seconds)
        if self._lost:
            self._waited += 1

    def add_round(self, tokens: int, seconds: float) -> None:
        """A round that brought `tokens` tokens of text."""
        if self.is_decided and self.retry_steps is None:
            return
        if self._lost:
            self._begin_trial()
        self._with.add(tokens, seconds)
        self._rounds += 1
        if self.is_decided and self._with.tokens_per_s() < self._without.tokens_per_s():
            self._lost, self._waited = True, 0
            self._wait = min(max(2 * self._wait, self.retry_steps or 0), _LONGEST_WAIT_STEPS)
        elif self.is_decided:
            self._wait = 0

    def _begin_trial(self) -> None:
        """Judge by new rounds alone."""
        self._lost = False
        self._with.latest.clear()
        self._rounds = DRAFTED_STEPS - RETRIED_STEPS
