"""When proposals are tried, dropped and tried again, under a clock that the test turns."""

from __future__ import annotations

import pytest

from edgeport.runtimes.pace import DRAFTED_STEPS, PLAIN_STEPS, RETRIED_STEPS, Pace


def steps(pace: Pace, count: int, *, tokens: int, seconds: float) -> int:
    """Take `count` steps, plain ones of one second; the number of rounds with proposals among them."""
    rounds = 0
    for _ in range(count):
        if pace.wants_proposals:
            pace.add_round(tokens, seconds)
            rounds += 1
        else:
            pace.add_plain(1.0)
    return rounds


def test_plain_steps_come_first() -> None:
    pace = Pace()
    assert steps(pace, PLAIN_STEPS, tokens=3, seconds=1) == 0
    assert pace.wants_proposals and pace.speedup is None and not pace.is_off


def test_one_interrupted_step_decides_nothing() -> None:
    pace = Pace()
    steps(pace, PLAIN_STEPS + DRAFTED_STEPS - 1, tokens=2, seconds=1.25)
    pace.add_round(2, 100.0)  # something else on the machine
    assert pace.is_decided and pace.speedup == pytest.approx(2 / 1.25) and not pace.is_off


def test_without_retries_a_decision_stands() -> None:
    for seconds, is_off in ((3.0, True), (1.0, False)):
        pace = Pace()
        steps(pace, 40, tokens=2, seconds=seconds)
        assert pace.is_off is is_off
        steps(pace, 500, tokens=2, seconds=4.0 - seconds)
        assert pace.is_off is is_off


def test_what_lost_is_tried_again_after_longer_and_longer_waits() -> None:
    pace = Pace(retry_steps=20)
    assert steps(pace, PLAIN_STEPS + DRAFTED_STEPS, tokens=1, seconds=2.0) == DRAFTED_STEPS and pace.is_off
    for wait in (20, 40, 80, 160):
        assert steps(pace, wait, tokens=1, seconds=2.0) == 0
        assert steps(pace, RETRIED_STEPS, tokens=1, seconds=2.0) == RETRIED_STEPS and pace.is_off


def test_what_pays_again_stays_on_and_what_stops_paying_goes_off() -> None:
    pace = Pace(retry_steps=20)
    steps(pace, PLAIN_STEPS + DRAFTED_STEPS, tokens=1, seconds=2.0)
    assert pace.is_off
    assert steps(pace, 20 + 100, tokens=4, seconds=1.5) == 100 and not pace.is_off
    assert steps(pace, 200, tokens=1, seconds=2.0) < 60 and pace.is_off
