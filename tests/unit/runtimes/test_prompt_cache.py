"""A shared beginning is not computed twice, and nobody can tell from the text: on every engine, with a draft too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure, UnsupportedModel
from edgeport.manifest import ContainerEntry, DraftEntry, Manifest, ModelFacts, SourceFacts, write_manifest
from edgeport.runtimes import GenerationOptions, Model, Sampling, SessionOptions, load
from edgeport.runtimes.engines import ENGINES, open_session, unavailable_because
from edgeport.runtimes.prompt_cache import HeldSession, shared_length
from edgeport.runtimes.session import Logits

EXACT = SessionOptions(threads=1, context_length=128, exact=True)
WITH = GenerationOptions(max_tokens=12, ignore_stop_tokens=True)
WITHOUT = replace(WITH, prompt_cache=False)
SHARED = "class Shape:\n    def area(self) -> float:\n        "
PROMPTS = [SHARED + end for end in ("return", "raise", "return self", "return")] + [
    "def other(values):",
    SHARED,
]
CHAT = [
    {"role": "system", "content": "Answer in one short line."},
    {"role": "user", "content": "What is the area of a shape?"},
]


def texts(model: Model, options: GenerationOptions) -> list[tuple[tuple[int, ...], int]]:
    return [(found.tokens, found.cached_tokens) for p in PROMPTS for found in [model.generate(p, options)]]


@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_text_is_the_same_and_less_is_computed(packed_dir: Path, engine: str) -> None:
    if (reason := unavailable_because(engine)) is not None:
        pytest.skip(reason)
    with load(packed_dir / engine, options=EXACT, check="never") as model:
        plain, cached = texts(model, WITHOUT), texts(model, WITH)
        assert [tokens for tokens, _ in cached] == [tokens for tokens, _ in plain]
        assert {count for _, count in plain} == {0}
        shared = shared_length(*(model.tokenizer.encode(p) for p in PROMPTS[:2]))
        assert shared > 8 and [count for _, count in cached][1] == shared
        assert cached[4][1] == 0, "nothing in common"
        # a conversation goes on: all that was said is still there, but for how the answer's end is cut
        answer = model.chat(CHAT, WITH)
        more = [
            *CHAT,
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": "And then?"},
        ]
        second = model.chat(more, WITH)
        assert second.cached_tokens >= answer.prompt_tokens - 1 > 8
        assert second.tokens == model.chat(more, WITHOUT).tokens


def test_a_stopped_text_leaves_what_it_computed(packed_dir: Path) -> None:
    with load(packed_dir / "safetensors", options=EXACT, check="never") as model:
        expected = model.generate(SHARED, WITHOUT).tokens
        stream = model.stream(SHARED, WITH)
        for _ in range(4):
            next(stream)
        stream.close()
        again = model.generate(SHARED, WITH)
        assert again.tokens == expected and again.cached_tokens == again.prompt_tokens - 1


def test_penalties_see_the_whole_prompt(packed_dir: Path) -> None:
    """What is not fed again still counts as seen."""
    options = replace(WITH, sampling=Sampling(repetition_penalty=1.8))
    with load(packed_dir / "safetensors", options=EXACT, check="never") as model:
        expected = model.generate(SHARED, replace(options, prompt_cache=False)).tokens
        assert model.generate(SHARED, options).tokens == expected
        assert model.generate(SHARED, WITH).tokens != expected


def test_with_a_draft_too(packed_dir: Path, tmp_path: Path) -> None:
    facts = ModelFacts("qwen2", 1000, 2, 64, 128, 4, 2, 16, 512, 256, False, 4.5, 256)
    entry = ContainerEntry("safetensors", "safetensors/config.json", (), 0, "id")
    manifest = Manifest("tiny", "now", SourceFacts("s", "f", 1, "bf16"), {}, "edge", facts, "id", (entry,))
    for folder in (tmp_path, tmp_path / "draft"):
        shutil.copytree(packed_dir / "safetensors", folder / "safetensors")
        write_manifest(manifest, folder)
    write_manifest(replace(manifest, draft=DraftEntry("draft", "id", 3)), tmp_path)
    with load(tmp_path, options=EXACT, draft="auto", check="never") as model:
        assert model.draft is not None
        plain = texts(model, replace(WITHOUT, speculation="none"))
        drafted = texts(model, WITH)
        assert [tokens for tokens, _ in drafted] == [tokens for tokens, _ in plain]
        assert drafted[1][1] > 8 and model.draft.acceptance().steps > 0


@pytest.mark.parametrize("engine", [*ENGINES, "openvino with its state"])
def test_a_call_that_was_interrupted_leaves_nothing_behind(
    packed_dir: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between the engine's work and the line that counts it; going back to 0 must clear that too."""
    engine, _, stateful = engine.partition(" ")
    if (reason := unavailable_because(engine)) is not None:
        pytest.skip(reason)

    def refuse(_: object) -> None:
        raise UnsupportedModel("a graph that cannot be paged")

    if stateful:
        monkeypatch.setattr("edgeport.runtimes.openvino.paged", refuse)
    session = open_session(engine, packed_dir / engine, EXACT)
    expected = session.feed(list(range(40, 60)))
    session.rewind(0)
    session.feed(list(range(90, 120)))
    session._window.position = 0  # type: ignore[attr-defined]
    session.rewind(0)
    np.testing.assert_array_equal(session.feed(list(range(40, 60))), expected)
    session.close()


class Tape:
    """A session that remembers what it was fed; `stubborn` ones cannot go back part of the way."""

    vocab_size, context_length = 512, 2000

    def __init__(self, stubborn: bool = False) -> None:
        self.stubborn, self.fed, self.sizes = stubborn, list[int](), list[int]()

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        self.fed += tokens
        self.sizes.append(len(tokens))
        return np.array(tokens if all_logits else tokens[-1:], np.float32)[:, None]

    def rewind(self, position: int) -> None:
        if self.stubborn and 0 < position < self.position:
            raise RuntimeFailure("this model's state cannot be cut")
        del self.fed[position:]

    def close(self) -> None:
        pass


def test_a_model_that_cannot_go_back_starts_anew() -> None:
    tape = Tape(stubborn=True)
    session = HeldSession(tape)
    session.feed(range(50))
    assert session.rewind_to_shared([*range(30), 7, 7]) == 0 and tape.fed == []


def test_the_last_token_is_always_computed() -> None:
    session = HeldSession(Tape())
    session.feed(range(50))
    assert session.rewind_to_shared(list(range(50))) == 49 == session.position
    assert session.rewind_to_shared(list(range(20))) == 19


def test_a_few_tokens_are_not_worth_a_rewind() -> None:
    session = HeldSession(Tape())
    session.feed(range(50))
    assert session.rewind_to_shared([*range(7), 99, 99, 99]) == 0 == session.position


def test_long_texts_go_through_in_pieces() -> None:
    tape = Tape()
    session = HeldSession(tape, piece_tokens=100)
    assert session.feed(range(250), all_logits=True)[:, 0].tolist() == list(range(250))
    assert tape.sizes == [100, 100, 50] and session.feed(range(150)).tolist() == [[149]]
    assert session.rewind_to_shared([*range(250), *range(150), 3]) == 400


def test_what_was_interrupted_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape()
    session = HeldSession(tape)
    session.feed(range(50))

    def interrupt(*_: object, **__: object) -> Logits:
        raise KeyboardInterrupt

    monkeypatch.setattr(tape, "feed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        session.feed([50])
    assert session.rewind_to_shared(list(range(60))) == 0


def test_a_session_that_was_moved_by_others_is_not_trusted() -> None:
    tape = Tape()
    session = HeldSession(tape)
    session.feed(range(50))
    del tape.fed[40:]
    assert session.rewind_to_shared(list(range(50))) == 0
