"""Whether a draft pays: tokens per second with it and without it, over the first steps of a text.

Judging several tokens in one call is cheap where reading the weights is what costs, and as dear as writing them where
arithmetic is; an engine may also take long to rewind. Nothing but the clock knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean, median

PLAIN_STEPS = 6
DRAFTED_STEPS = 8
_WARM_UP_STEPS = 2
"""Of each kind, not counted: the draft reads the prompt in its first one."""


@dataclass(slots=True)
class Measured:
    """tokens: what a drafted step brought, to be filled in by whoever took it."""

    tokens: int = 1


@dataclass(slots=True)
class _Total:
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.seconds)

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens.append(tokens)
        self.seconds.append(seconds)

    def tokens_per_s(self) -> float:
        """Mean tokens of a step over its median time, because something else may interrupt a step."""
        typical_s = median(self.seconds[_WARM_UP_STEPS:])
        return mean(self.tokens[_WARM_UP_STEPS:]) / typical_s if typical_s > 0 else 0.0


@dataclass(slots=True)
class Pace:
    """First some steps without the draft, then some with it, then a decision that holds for as long as this object does."""

    clock: Callable[[], float] = time.perf_counter
    _without: _Total = field(default_factory=_Total)
    _with: _Total = field(default_factory=_Total)

    @property
    def is_decided(self) -> bool:
        return self._with.steps >= DRAFTED_STEPS

    @property
    def is_off(self) -> bool:
        return self.is_decided and self._with.tokens_per_s() < self._without.tokens_per_s()

    @property
    def wants_draft(self) -> bool:
        """Whether the next step should be a drafted one."""
        return self._without.steps >= PLAIN_STEPS and not self.is_off

    @property
    def speedup(self) -> float | None:
        """Tokens per second with the draft over without, once it was measured."""
        return self._with.tokens_per_s() / self._without.tokens_per_s() if self.is_decided else None

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Time a step of the target alone."""
        begin = self.clock()
        yield
        if self._without.steps < PLAIN_STEPS:
            self._without.add(1, self.clock() - begin)

    @contextmanager
    def drafted(self) -> Iterator[Measured]:
        """Time a drafted step."""
        measured, begin = Measured(), self.clock()
        yield measured
        if not self.is_decided:
            self._with.add(measured.tokens, self.clock() - begin)
