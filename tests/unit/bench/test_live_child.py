"""A child that stays: values in, values out, and every way in which it can end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from typing import Any

import pytest

from edgeport.errors import DoesNotFit, RuntimeFailure
from edgeport.runtimes.bench.live_child import LiveChild

HERE = __name__


def adding(start: int) -> Generator[Any, int, None]:
    total = start
    while True:
        total += yield {"total": total, "process_id": os.getpid()}


def three() -> Generator[int, None, None]:
    yield from (1, 2, 3)


def failing() -> Generator[int, None, None]:
    yield 1
    raise DoesNotFit("too large", hint="take less")


def stumbling() -> Generator[int, None, None]:
    yield 1
    print("last words of the engine", flush=True)
    raise ValueError("not ours")


def dying() -> Generator[int, None, None]:
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)


def sleeping() -> Generator[int, None, None]:
    time.sleep(60)
    yield 1


def test_it_keeps_its_state_in_a_process_of_its_own() -> None:
    with LiveChild(f"{HERE}:adding", {"start": 5}) as child:
        first = child.next()
        assert first["total"] == 5
        assert first["process_id"] == child.process_id != os.getpid()
        assert [child.next(2)["total"], child.next(-7)["total"]] == [7, 0]


def test_ctrl_c_is_left_to_the_parent() -> None:
    with LiveChild(f"{HERE}:adding", {"start": 0}) as child:
        child.next()
        os.kill(child.process_id, signal.SIGINT)
        assert child.next(4)["total"] == 4


def test_the_end_of_the_generator_is_not_a_value() -> None:
    with LiveChild(f"{HERE}:three", {}) as child:
        assert [child.next(), child.next(), child.next()] == [1, 2, 3]
        assert not child.is_finished
        assert child.next() is None
        assert child.is_finished


def test_its_errors_come_back_as_they_were() -> None:
    with LiveChild(f"{HERE}:failing", {}) as child:
        child.next()
        with pytest.raises(DoesNotFit, match="too large") as caught:
            child.next()
        assert caught.value.hint == "take less"
    with LiveChild(f"{HERE}:stumbling", {}) as child:
        child.next()
        with pytest.raises(RuntimeFailure, match="(?s)ValueError: not ours.*last words of the engine"):
            child.next()


def test_a_death_is_told_and_leaves_nothing_behind() -> None:
    child = LiveChild(f"{HERE}:dying", {})
    child.next()
    with pytest.raises(RuntimeFailure, match="SIGKILL"):
        child.next()
    with pytest.raises(RuntimeFailure, match="SIGKILL"):
        child.next()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child.process_id, 0)


def test_silence_is_an_error_and_ends_with_force() -> None:
    begin = time.monotonic()
    with LiveChild(f"{HERE}:sleeping", {}, timeout_s=0.5) as child:  # noqa: SIM117 - the child outlives the error
        with pytest.raises(RuntimeFailure, match=r"did not answer within 0\.5 s"):
            child.next()
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        os.kill(child.process_id, 0)
