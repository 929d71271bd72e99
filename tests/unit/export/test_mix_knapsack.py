"""The knapsack against brute force, in exact bytes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.errors import DoesNotFit
from edgeport.export.mix.knapsack import Option, Solution, solve

options = st.builds(Option, st.integers(0, 60), st.floats(0, 10, allow_nan=False))
instances = st.lists(st.lists(options, min_size=1, max_size=3), min_size=1, max_size=6)


def brute_force(groups: list[list[Option]], budget_bytes: int) -> float | None:
    best = None
    for picked in itertools.product(*groups):
        if sum(option.size_bytes for option in picked) <= budget_bytes:
            loss = sum(option.loss for option in picked)
            best = loss if best is None else min(best, loss)
    return best


def check_consistent(groups: list[list[Option]], budget_bytes: int, found: Solution) -> None:
    picked = [group[index] for group, index in zip(groups, found.chosen, strict=True)]
    assert found.size_bytes == sum(option.size_bytes for option in picked) <= budget_bytes
    assert found.loss == sum(option.loss for option in picked)


@settings(max_examples=200, deadline=None)
@given(instances, st.integers(0, 300))
def test_solution_is_the_best_of_all_choices(groups: list[list[Option]], budget_bytes: int) -> None:
    best = brute_force(groups, budget_bytes)
    if best is None:
        with pytest.raises(DoesNotFit):
            solve(groups, budget_bytes)
        return
    found = solve(groups, budget_bytes)
    check_consistent(groups, budget_bytes, found)
    assert found.exact
    assert math.isclose(found.loss, best, rel_tol=1e-12, abs_tol=1e-12)


@settings(max_examples=100, deadline=None)
@given(instances, st.integers(0, 300))
def test_too_many_states_cost_at_most_a_unit_per_group(groups: list[list[Option]], slack: int) -> None:
    budget_bytes = sum(min(option.size_bytes for option in group) for group in groups) + slack
    found = solve(groups, budget_bytes, most_states=2)
    check_consistent(groups, budget_bytes, found)
    guaranteed = brute_force(groups, budget_bytes - (0 if found.exact else len(groups) * found.unit_bytes))
    assert guaranteed is None or found.loss <= guaranteed + 1e-9


def test_greedy_by_ratio_would_be_wrong() -> None:
    # The best ratio (9 / 6) fills the bag so that nothing else fits; 5 + 5 is better.
    groups = [
        [Option(0, 9.0), Option(6, 0.0)],
        [Option(0, 5.0), Option(5, 0.0)],
        [Option(0, 5.0), Option(5, 0.0)],
    ]
    assert solve(groups, 10).chosen == (0, 1, 1)


def test_one_byte_decides() -> None:
    groups = [[Option(100, 1.0), Option(200, 0.0)]]
    assert solve(groups, 200).chosen == (1,)
    assert solve(groups, 199).chosen == (0,)


def test_more_bytes_are_not_taken_for_nothing() -> None:
    assert solve([[Option(1, 0.5), Option(2, 0.5)]], 10).chosen == (0,)


def test_below_the_smallest_choice_is_told_in_bytes() -> None:
    with pytest.raises(DoesNotFit, match="takes 30 bytes, the budget is 29"):
        solve([[Option(10, 0.0)], [Option(20, 0.0), Option(25, 0.0)]], 29)


def test_hundreds_of_groups_of_a_real_shape_are_exact() -> None:
    # 32 layers of 4096 x 4096 and 4096 x 14336 matrices at 4.5 and 8.5 bits, losses without pattern.
    sizes = [4096 * 6144, 4096 * 4096, 2 * 4096 * 14336, 4096 * 14336] * 32 + [4096 * 128256] * 2
    groups = [
        [Option(size * 9 // 16, 1 + (at * 7919 % 101) / 50), Option(size * 17 // 16, (at * 31 % 17) / 1000)]
        for at, size in enumerate(sizes)
    ]
    budget_bytes = sum(sizes) * 5 // 8
    found = solve(groups, budget_bytes)
    check_consistent(groups, budget_bytes, found)
    assert found.exact
    # At most one group's difference is left over, or something more could have been upgraded.
    rest = budget_bytes - found.size_bytes
    assert all(
        index == 1 or group[1].size_bytes - group[0].size_bytes > rest
        for group, index in zip(groups, found.chosen, strict=True)
    )
