"""How much of a training run one step is: fitted to the clock, recorded, and repeated from the record."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Protocol

STEPS_PER_SCHEDULE_UPDATE = 25


@dataclass
class Progress:
    """What a resumed run has to know.

    `share` is the part of the run that is over and `pace` its growth per step. The pace follows the clock, and
    each change is kept in `schedule` as [step, pace], so that a run can be repeated exactly on another machine.
    """

    step: int = 0
    share: float = 0.0
    pace: float = 0.0
    seconds: float = 0.0
    best_validation_loss: float = math.inf
    best_step: int = 0
    schedule: list[list[float]] = dataclasses.field(default_factory=list)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.share >= 1 - 1e-6  # paces are rounded, their sum does not meet 1 exactly


class Pacer(Protocol):
    """Decides how much of the run one step is."""

    def pace(self, progress: Progress) -> float: ...


class ClockPacer:
    """Fits the run into a wall-clock time although neighbours change the speed: the remaining share is spread
    over the steps that the recent speed promises for the remaining time."""

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._per_step = 1.5  # a guess for the first steps
        self._last: tuple[int, float] | None = None

    def pace(self, progress: Progress) -> float:
        if self._last is None and progress.step:
            self._per_step = progress.seconds / progress.step  # a resumed run
        elif self._last is not None and progress.step > self._last[0]:
            recent = (progress.seconds - self._last[1]) / (progress.step - self._last[0])
            self._per_step += 0.3 * (recent - self._per_step)
        self._last = (progress.step, progress.seconds)
        steps = max(STEPS_PER_SCHEDULE_UPDATE, (self._seconds - progress.seconds) / self._per_step)
        return round((1 - progress.share) / steps, 9)


class RecordedPacer:
    """Repeats the paces of an earlier run, step by step."""

    def __init__(self, schedule: list[list[float]]) -> None:
        self._schedule = schedule

    def pace(self, progress: Progress) -> float:
        return [pace for step, pace in self._schedule if step <= progress.step][-1]
