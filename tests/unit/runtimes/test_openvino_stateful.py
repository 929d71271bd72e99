"""A graph whose attention cannot be rewritten runs with its cache in the model's state: the same logits, and it rewinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure, UnsupportedModel
from edgeport.runtimes.engines import open_session, unavailable_because
from edgeport.runtimes.openvino_paged import PagedSession
from edgeport.runtimes.session import Session, SessionOptions

if (reason := unavailable_because("openvino")) is not None:
    pytest.skip(reason, allow_module_level=True)

from edgeport.runtimes.openvino import OpenVinoSession

EXACT = SessionOptions(threads=1, context_length=128, exact=True)
TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 500, 60)]


@pytest.fixture
def expected(packed_dir: Path) -> np.ndarray:
    session = open_session("openvino", packed_dir / "openvino", EXACT)
    assert isinstance(session, PagedSession)
    return session.feed(TOKENS, all_logits=True)


@pytest.fixture
def stateful(expected: np.ndarray, packed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    def refuse(_: object) -> None:
        raise UnsupportedModel("a graph that cannot be paged")

    # `expected` comes first: it is what the graph gives unpatched
    monkeypatch.setattr("edgeport.runtimes.openvino.paged", refuse)
    session = open_session("openvino", packed_dir / "openvino", EXACT)
    assert isinstance(session, OpenVinoSession)
    return session


def test_logits_equal_those_of_paged_attention(stateful: Session, expected: np.ndarray) -> None:
    np.testing.assert_allclose(stateful.feed(TOKENS, all_logits=True), expected, atol=1e-4)


def test_pieces_and_rewinds(stateful: Session, expected: np.ndarray) -> None:
    stateful.feed(TOKENS[:20])
    stateful.feed(TOKENS[30:50])
    stateful.rewind(20)
    for index, token in enumerate(TOKENS[20:30], start=20):
        np.testing.assert_allclose(stateful.feed([token])[0], expected[index], atol=1e-4)
    np.testing.assert_allclose(stateful.feed(TOKENS[30:])[0], expected[-1], atol=1e-4)
    stateful.rewind(0)
    np.testing.assert_allclose(stateful.feed(TOKENS[:1])[0], expected[0], atol=1e-4)


def test_a_state_of_another_length_is_not_cut(stateful: Session) -> None:
    stateful.feed(TOKENS)
    stateful._window.position = 50  # type: ignore[attr-defined]
    with pytest.raises(RuntimeFailure, match="cannot rewind this model: its state"):
        stateful.rewind(20)
