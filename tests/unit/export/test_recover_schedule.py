"""Schedules: steps are exact, the clock is kept whatever the speed, and a recorded run repeats."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeport.export.recover.schedule import (
    ClockPacer,
    Pacer,
    RecordedPacer,
    RunState,
    StepPacer,
    learning_rate_factor,
)


def simulate(pacer: Pacer, seconds: Callable[[int], float], run: RunState | None = None) -> list[float]:
    """Run to the end with a step that takes `seconds(step)`; the shares at each step."""
    run, shares = run or RunState(), []
    while not run.finished:
        run.set_pace(pacer.pace(run))
        shares.append(run.share + run.pace / 2)
        run.step += 1
        run.share += run.pace
        run.seconds += seconds(run.step)
        assert run.step < 100_000
    return shares


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000, 3333])
def test_a_number_of_steps_is_that_number(steps: int) -> None:
    assert len(simulate(StepPacer(steps), lambda step: 1.0)) == steps


@pytest.mark.parametrize(
    "seconds",
    [
        lambda step: 0.1,
        lambda step: 7.0,
        lambda step: 0.5 if step < 200 else 1.5,  # a neighbour comes
        lambda step: 1.5 if step < 200 else 0.5,
        lambda step: 1.0 + 0.5 * (step % 3),
        lambda step: 20.0 if step % 50 == 0 else 0.5,  # measurements
    ],
)
def test_the_clock_is_kept_at_any_speed(seconds: Callable[[int], float]) -> None:
    run = RunState()
    shares = simulate(ClockPacer(10), seconds, run)
    assert 540 <= run.seconds <= 630
    assert shares == sorted(shares)
    assert shares[-1] > 0.9  # the learning rate has come down


def test_one_step_longer_than_the_time_is_the_only_one() -> None:
    run = RunState()
    simulate(ClockPacer(1), lambda step: 500.0, run)
    assert run.step <= 2


def test_a_recorded_run_takes_the_same_shares() -> None:
    first = RunState()
    shares = simulate(ClockPacer(5), lambda step: 0.3 + 0.2 * (step % 7), first)
    assert len(first.schedule) > 5
    again = RunState()
    assert simulate(RecordedPacer(first.schedule), lambda step: 9.0, again) == shares
    assert again.schedule == first.schedule


def test_a_resumed_clock_counts_the_time_used() -> None:
    run = RunState()
    pacer = ClockPacer(10)
    for _ in range(100):
        run.set_pace(pacer.pace(run))
        run.step, run.share, run.seconds = run.step + 1, run.share + run.pace, run.seconds + 2.0
    again = RunState(**run.to_document())
    simulate(ClockPacer(10), lambda step: 2.0, again)
    assert 590 <= again.seconds <= 610
    assert 290 <= again.step <= 305


def test_the_rate_rises_falls_and_ends_above_nothing() -> None:
    factors = [learning_rate_factor(n / 100, warmup_share=0.1, final_share=0.05) for n in range(101)]
    assert factors[0] == 0
    assert max(factors) == factors[10] == 1
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.05)
    assert learning_rate_factor(0.0, warmup_share=0.0, final_share=0.1) == 1
