"""Which change makes a model fit, solved and not guessed: the mildest value of one setting, or of the fewest settings together.

Pure: a setting is a list of values from the present one to the strongest, and a function says whether a choice of values
fits. Each later value of a list must need no more memory than the one before, so that bisection finds the first that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

Value = int | str
Fits = Callable[[Mapping[str, Value]], bool]


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that may be lowered; values[0] is what was asked for."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class Change:
    """Set `knob` from `before` to `after`."""

    knob: str
    before: Value
    after: Value


@dataclass(frozen=True, slots=True)
class Advice:
    """alone: changes of which each is enough. together: the fewest that are enough at once, where none is alone.

    Both empty: it fits already, or nothing that may be changed is enough.
    """

    alone: tuple[Change, ...] = ()
    together: tuple[Change, ...] = ()

    @property
    def helps(self) -> bool:
        return bool(self.alone or self.together)


def solve(knobs: Sequence[Knob], fits: Fits) -> Advice:
    """Changes that make it fit; `knobs` in the order in which they may be touched, the least harmful first.

    Every change is tight: the value before it in the list does not fit, with the other changes of its set as they are.
    """
    present = {knob.name: knob.values[0] for knob in knobs}
    if fits(present):
        return Advice()
    movable = [knob for knob in knobs if len(knob.values) > 1]
    alone = [_change(knob, value) for knob in movable if (value := _mildest(knob, present, fits)) is not None]
    if alone:
        return Advice(alone=tuple(alone))
    for count in range(2, len(movable) + 1):
        for chosen in combinations(movable, count):
            if together := _relax(chosen, present, fits):
                return Advice(together=together)
    return Advice()


def _relax(chosen: Sequence[Knob], present: Mapping[str, Value], fits: Fits) -> tuple[Change, ...]:
    """All of `chosen` at their strongest, then each as mild as the others allow, the most harmful one first."""
    values = {**present, **{knob.name: knob.values[-1] for knob in chosen}}
    if not fits(values):
        return ()
    for knob in reversed(chosen):
        mildest = _mildest(knob, values, fits)
        values[knob.name] = knob.values[-1] if mildest is None else mildest
    return tuple(_change(knob, values[knob.name]) for knob in chosen)


def _mildest(knob: Knob, values: Mapping[str, Value], fits: Fits) -> Value | None:
    """The first value of the knob that fits with the others as they are, or None: bisection."""

    def holds(index: int) -> bool:
        return fits({**values, knob.name: knob.values[index]})

    low, high = 0, len(knob.values) - 1
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return knob.values[low]


def _change(knob: Knob, value: Value) -> Change:
    return Change(knob.name, knob.values[0], value)
