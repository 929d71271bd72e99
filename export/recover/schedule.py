"""How much of a run one step is, and the learning rate that goes with it.

A run's share grows from 0 to 1 by a pace per step. With a number of steps the pace is fixed; with a wall-clock time it
follows the machine. Every change is recorded, so that the same run can be repeated step by step, without the clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_FIRST_STEP_SECONDS = 0.02
"""A guess for the very first step: too small costs nothing, for the next one knows better; too large ends a short run."""
_SECONDS_PER_DECISION = 5.0
_SMOOTHING = 0.3
_EARLY_STEPS = (1, 2, 4, 8, 16)


@dataclass(slots=True)
class RunState:
    """What a resumed run has to know beside its arrays; `to_document` and `RunState(**document)` are exact.

    schedule: [step, pace from there on]; curve: one entry per measurement; seconds: worked, over all runs.
    """

    step: int = 0
    share: float = 0.0
    pace: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = -1
    since_best: int = 0
    schedule: list[list[float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Nearer to the end than half a step: paces do not add up to 1 exactly."""
        return self.share >= 1 - self.pace / 2 > 0

    def set_pace(self, pace: float) -> None:
        if pace != self.pace:
            self.pace = pace
            self.schedule.append([self.step, pace])

    def to_document(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Pacer(Protocol):
    """Asked before each step how much of the run it is."""

    def pace(self, state: RunState) -> float: ...


class StepPacer:
    """A fixed number of steps."""

    def __init__(self, steps: int) -> None:
        self._pace = 1 / steps

    def pace(self, state: RunState) -> float:
        return self._pace


class ClockPacer:
    """Spread what is left of the run over the steps that the recent speed promises for the time left."""

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._per_step = _FIRST_STEP_SECONDS
        self._last: tuple[int, float] | None = None

    def pace(self, state: RunState) -> float:
        if not self._is_due(state):
            return state.pace
        if self._last is None:
            if state.step:  # a resumed run
                self._per_step = state.seconds / state.step
        elif state.step > self._last[0]:
            recent = (state.seconds - self._last[1]) / (state.step - self._last[0])
            weight = 1.0 if state.step in _EARLY_STEPS else _SMOOTHING
            self._per_step += weight * (recent - self._per_step)
        self._last = (state.step, state.seconds)
        steps = max(1.0, (self._seconds - state.seconds) / self._per_step)
        return (1 - state.share) / steps

    def _is_due(self, state: RunState) -> bool:
        if self._last is None or state.step in _EARLY_STEPS:
            return True
        return state.seconds - self._last[1] >= _SECONDS_PER_DECISION or state.seconds >= self._seconds


class RecordedPacer:
    """Repeat the paces of an earlier run."""

    def __init__(self, schedule: Sequence[Sequence[float]]) -> None:
        self._schedule = [(int(step), float(pace)) for step, pace in schedule]

    def pace(self, state: RunState) -> float:
        return [pace for step, pace in self._schedule if step <= state.step][-1]


def learning_rate_factor(share: float, *, warmup_share: float, final_share: float) -> float:
    """Linear from 0 to 1 over the warm-up, then a cosine down to `final_share` (arXiv:1608.03983, one cycle)."""
    if share < warmup_share:
        return share / warmup_share
    phase = min(1.0, (share - warmup_share) / max(1 - warmup_share, 1e-12))
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * phase))
