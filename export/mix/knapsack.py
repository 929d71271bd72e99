"""The multiple-choice knapsack: one option per group, least total loss within a budget of bytes, exactly.

Dynamic programming over the Pareto frontier of (bytes, loss): group by group each state is extended by every option, and a
state is dropped when another has no more bytes and no more loss. Bytes are integers throughout. With n groups of k options
the frontier has at most min(k**n, capacity / unit + 1) states, where capacity is the budget above the smallest choice and
unit the greatest common divisor of the options' differences; dimensions of language models are multiples of 32, so unit
is large and a model of some hundred groups takes milliseconds: O(n * k * states log(states)) time, O(n * states) memory.

Where sizes have no common divisor and the frontier outgrows MOST_STATES, differences are rounded up to a coarser unit. The
choice still fits, and it is no worse than the best choice for a budget smaller by groups * unit; `Solution.exact` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import DoesNotFit

MOST_STATES = 1 << 20


@dataclass(frozen=True, slots=True)
class Option:
    """loss is at least zero, in any unit that adds up."""

    size_bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Solution:
    """chosen: the option of each group. unit_bytes: what differences of sizes were counted in; exact: nothing was rounded."""

    chosen: tuple[int, ...]
    size_bytes: int
    loss: float
    unit_bytes: int
    exact: bool


class _TooManyStates(Exception):
    """Not an error: asks for a coarser unit."""


def solve(
    groups: Sequence[Sequence[Option]], budget_bytes: int, *, most_states: int = MOST_STATES
) -> Solution:
    """Raises DoesNotFit when even the smallest options exceed the budget, ValueError for a group without options."""
    if not all(groups):
        raise ValueError("a group has no options")
    smallest = sum(min(option.size_bytes for option in group) for group in groups)
    if smallest > budget_bytes:
        raise DoesNotFit(f"the smallest choice takes {smallest} bytes, the budget is {budget_bytes}")
    extra = [_differences(group) for group in groups]
    exact_unit = math.gcd(*(value for group in extra for value in group)) or 1
    unit, capacity = exact_unit, budget_bytes - smallest
    while True:
        try:
            chosen = _best(groups, extra, (capacity, unit), most_states)
        except _TooManyStates:
            unit *= 4
            continue
        picked = [group[index] for group, index in zip(groups, chosen, strict=True)]
        size_bytes, loss = sum(option.size_bytes for option in picked), sum(option.loss for option in picked)
        return Solution(chosen, size_bytes, loss, unit, unit == exact_unit)


def _differences(group: Sequence[Option]) -> list[int]:
    smallest = min(option.size_bytes for option in group)
    return [option.size_bytes - smallest for option in group]


def _best(
    groups: Sequence[Sequence[Option]], extra: Sequence[Sequence[int]], limits: tuple[int, int], most: int
) -> tuple[int, ...]:
    capacity, unit = limits
    room = capacity // unit
    sizes, losses = np.zeros(1, dtype=np.int64), np.zeros(1)
    steps: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]] = []
    for group, added in zip(groups, extra, strict=True):
        # sizes in units, rounded up, so that what fits here fits in bytes
        units = np.array([-(-value // unit) for value in added], dtype=np.int64)
        all_sizes = (sizes[:, None] + units).ravel()
        all_losses = (losses[:, None] + np.array([option.loss for option in group])).ravel()
        order = np.lexsort((all_losses, all_sizes))
        order = order[all_sizes[order] <= room]
        least = np.minimum.accumulate(all_losses[order])
        order = order[np.concatenate(([True], least[1:] < least[:-1]))]
        if len(order) > most:
            raise _TooManyStates
        sizes, losses = all_sizes[order], all_losses[order]
        steps.append(((order // len(group)).astype(np.int32), (order % len(group)).astype(np.int16)))
    # Losses fall along the frontier: the last state is the best.
    state, chosen = len(sizes) - 1, []
    for parents, choices in reversed(steps):
        chosen.append(int(choices[state]))
        state = int(parents[state])
    return tuple(reversed(chosen))
