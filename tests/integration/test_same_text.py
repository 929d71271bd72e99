"""Greedy text is one and the same however it is made: streamed, from a prompt cache, with proposals, after a rewind.

The trained reference model writes Python that repeats itself, so that caches and proposals have something to do; each test
sees that they did it. Engines run in their exact mode: docs/drafts.md says what holds in the arithmetic that ships.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.runtimes import GenerationOptions, Model, SessionOptions, load
from edgeport.runtimes.draft_model import Draft
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.lookup import PromptLookup

EXACT = SessionOptions(threads=1, context_length=320, exact=True)
TOKENS = 40
PLAIN = GenerationOptions(TOKENS, ignore_stop_tokens=True, prompt_cache=False, speculation="none")
HEAD = "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y = y\n\n"
PROMPTS = [
    HEAD + "    def __eq__(self, other):\n        ",
    HEAD + "    def __repr__(self):\n        return ",
    "import os\n\nclass ReadTest(unittest.TestCase):\n    def test_read(self):\n        self.assertEqual(",
]


@pytest.fixture(scope="module", params=list(ENGINES))
def model(request: pytest.FixtureRequest, reference_containers: Path) -> Iterator[Model]:
    reason = unavailable_because(request.param)
    if reason is not None:
        pytest.skip(reason)
    with load(reference_containers / request.param, options=EXACT, check="never") as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(model: Model) -> list[tuple[int, ...]]:
    """Prompt by prompt from the session itself: the likeliest token, one call for each, no code of generation."""
    session, texts = model.session, []
    for prompt in PROMPTS:
        session.rewind(0)
        logits = session.feed(model.tokenizer.encode(prompt))
        tokens = [int(np.argmax(logits[-1]))]
        while len(tokens) < TOKENS:
            tokens.append(int(np.argmax(session.feed(tokens[-1:])[-1])))
        texts.append(tuple(tokens))
    return texts


def texts(model: Model, options: GenerationOptions) -> list[tuple[int, ...]]:
    return [model.generate(prompt, options).tokens for prompt in PROMPTS]


def test_generated_and_streamed(model: Model, expected: list[tuple[int, ...]]) -> None:
    assert texts(model, PLAIN) == expected
    streamed = list(model.stream(PROMPTS[0], PLAIN))
    assert tuple(token.id for token in streamed) == expected[0]
    assert "".join(token.text for token in streamed) == model.generate(PROMPTS[0], PLAIN).text


def test_with_a_prompt_cache(model: Model, expected: list[tuple[int, ...]]) -> None:
    options = replace(PLAIN, prompt_cache=True)
    assert texts(model, options) == expected
    again = [model.generate(prompt, options) for prompt in (PROMPTS[1], PROMPTS[0], PROMPTS[0])]
    assert [found.tokens for found in again] == [expected[1], expected[0], expected[0]]
    assert 0 < again[1].cached_tokens < again[2].cached_tokens == again[2].prompt_tokens - 1


def test_with_a_lookup(model: Model, expected: list[tuple[int, ...]]) -> None:
    model.lookup = PromptLookup()
    assert texts(model, replace(PLAIN, speculation="lookup")) == expected
    found = model.lookup.acceptance()
    assert 0 < found.rate < 1 and found.accepted > 25


def test_with_a_draft(model: Model, reference_containers: Path, expected: list[tuple[int, ...]]) -> None:
    """The same model in the arithmetic that ships: nearly always right, and not always."""
    options = SessionOptions(threads=1, context_length=320)
    session = open_session(model.format, reference_containers / model.format, options)
    try:
        for drafted_tokens in (2, 5):
            draft = Draft(session, model.session, drafted_tokens)
            for prompt, tokens in zip(PROMPTS, expected, strict=True):
                session.rewind(0)
                model.draft = draft
                assert model.generate(prompt, replace(PLAIN, speculation="auto")).tokens == tokens
            assert draft.acceptance().accepted > 60
    finally:
        model.draft = None
        session.close()


def test_after_a_rewind_and_after_a_text_that_was_left(model: Model, expected: list[tuple[int, ...]]) -> None:
    model.lookup = PromptLookup()
    for speculation, left_after in (("none", 5), ("lookup", 9), ("lookup", 30)):
        options = replace(PLAIN, speculation=speculation, prompt_cache=True)
        stream = model.stream(PROMPTS[2], options)
        assert [next(stream).id for _ in range(left_after)] == list(expected[2][:left_after])
        stream.close()
        assert texts(model, options) == expected
    session, tokens = model.session, model.tokenizer.encode(PROMPTS[0])
    session.rewind(0)
    session.feed([*tokens, *expected[1][:20]])
    session.rewind(len(tokens) - 1)
    logits = session.feed(tokens[-1:])
    assert int(np.argmax(logits[-1])) == expected[0][0]


def test_another_prompt_gives_another_text(expected: list[tuple[int, ...]]) -> None:
    assert len(set(expected)) == len(expected)
