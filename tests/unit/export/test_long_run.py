"""The long run: what it calls drift, and that it sees a session that gets slow or wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeport.export.gate import long_run as module

CONTEXT = 24


class Sequencer:
    """A session without a model, whose tokens take `seconds(position, round)`; NaN from `breaks_at` on."""

    context_length = CONTEXT

    def __init__(self, seconds: Any, breaks_at: int = CONTEXT + 1) -> None:
        self.position, self.round, self._seconds, self._breaks_at = 0, 0, seconds, breaks_at

    def feed(self, tokens: Sequence[int]) -> Any:
        time.sleep(self._seconds(self.position, self.round))
        self.position += len(tokens)
        return np.array([[0.0, np.nan if self.position >= self._breaks_at else 1.0]])

    def rewind(self, position: int) -> None:
        self.position, self.round = position, self.round + 1

    def close(self) -> None:
        pass


def result(monkeypatch: pytest.MonkeyPatch, session: Sequencer) -> dict[str, Any]:
    monkeypatch.setattr(module, "open_session", lambda *arguments: session)
    return module.long_run("gguf", "model", threads=1, context_length=CONTEXT)


def test_a_token_that_costs_more_late_in_the_cache_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    found = result(monkeypatch, Sequencer(lambda position, _: 0.0005 * position))
    assert found["finite"] and found["tokens"] == 2 * (CONTEXT - 1)
    assert found["drift"] < 1.5


def test_a_session_that_gets_slower_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = result(monkeypatch, Sequencer(lambda _, number: 0.002 if number < 2 else 0.008))
    assert found["drift"] > 2


def test_logits_that_are_not_finite_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not result(monkeypatch, Sequencer(lambda *_: 0.0, breaks_at=10))["finite"]
