"""One model, many callers: whose turn it is, how a text is stopped, and what closing means."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.runtimes import GenerationOptions, Model, SessionOptions, load
from edgeport.runtimes.completion import complete
from edgeport.runtimes.container import Container
from edgeport.runtimes.generation_defaults import PLAIN
from edgeport.runtimes.model import Parts
from edgeport.runtimes.prompt_cache import HeldSession
from edgeport.runtimes.session import Logits
from edgeport.runtimes.tokenizer import Tokenizer

OPTIONS = SessionOptions(threads=1, context_length=256)
FOREVER = GenerationOptions(max_tokens=200, ignore_stop_tokens=True)
PROMPT = "def area(self) -> float:\n    return"


class Slow:
    """A session whose calls can be held up; it writes 0, 1, 2, ... and keeps what it was fed."""

    vocab_size, context_length = 300, 4096

    def __init__(self) -> None:
        self.fed: list[int] = []
        self.calls: list[int] = []
        self.gate: Callable[[], object] = lambda: None
        self.is_closed = False

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        if self.is_closed:
            raise RuntimeFailure("the session is closed")
        self.gate()
        self.fed.extend(tokens)
        self.calls.append(len(tokens))
        logits = np.zeros((1, self.vocab_size), np.float32)
        logits[0, len(self.calls) % 256] = 1
        return logits

    def rewind(self, position: int) -> None:
        del self.fed[position:]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def slow(byte_tokenizer: Tokenizer) -> Iterator[tuple[Model, Slow]]:
    session = Slow()
    model = Model(Parts(Container("gguf", Path("x")), HeldSession(session), byte_tokenizer, PLAIN, "a test"))
    yield model, session
    session.gate = lambda: None
    model.close()


@pytest.fixture(scope="module")
def model(packed_dir: Path) -> Iterator[Model]:
    with load(packed_dir / "safetensors", options=OPTIONS, check="never") as opened:
        yield opened


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_callers_are_served_in_the_order_they_came(slow: tuple[Model, Slow]) -> None:
    model, _ = slow
    first = model.stream("a", FOREVER)
    next(first)
    served: list[int] = []

    def work(number: int) -> None:
        model.generate("b", GenerationOptions(max_tokens=2))
        served.append(number)

    threads = []
    for number in range(5):
        threads.append(in_thread(lambda number=number: work(number)))  # type: ignore[misc]
        while len(model._turns._waiting) <= number:  # the order of arrival, not of starting
            time.sleep(0.001)
    assert served == [], "an open stream holds the model"
    first.close()
    for thread in threads:
        thread.join(20)
    assert served == [0, 1, 2, 3, 4]


def test_texts_of_many_threads_are_those_of_one(model: Model) -> None:
    prompts = [f"def area_{number}(self) -> float:" for number in range(6)]
    options = GenerationOptions(max_tokens=8)
    expected = {prompt: model.generate(prompt, options).tokens for prompt in prompts}
    found: dict[str, tuple[int, ...]] = {}

    def work(prompt: str) -> None:
        found[prompt] = model.generate(prompt, options).tokens

    for thread in [in_thread(lambda prompt=prompt: work(prompt)) for prompt in prompts]:  # type: ignore[misc]
        thread.join(60)
    assert found == expected


def test_a_thread_that_would_wait_for_itself_is_told(slow: tuple[Model, Slow]) -> None:
    model, _ = slow
    first = model.stream("a", FOREVER)
    next(first)
    with pytest.raises(RuntimeFailure, match="still reading another text") as caught:
        model.generate("b")
    assert "finish or close" in str(caught.value.hint)
    next(first)
    first.close()
    assert model.generate("b", GenerationOptions(max_tokens=2)).tokens


def test_waiting_can_be_bounded(slow: tuple[Model, Slow]) -> None:
    model, _ = slow
    first = model.stream("a", FOREVER)
    next(first)
    with pytest.raises(RuntimeFailure, match=r"busy with another text for 0\.01 s"):
        model.generate("b", timeout_s=0.01)
    assert next(first).finish_reason is None, "the text that was there goes on"
    first.close()


def test_a_stream_that_was_not_begun_holds_nothing(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    waiting = model.stream("a", FOREVER)
    assert session.calls == []
    model.generate("b", GenerationOptions(max_tokens=2))
    assert next(waiting).finish_reason is None
    waiting.close()


def test_a_dropped_stream_frees_the_model(slow: tuple[Model, Slow]) -> None:
    model, _ = slow
    next(model.stream("a", FOREVER))
    assert model.generate("b", GenerationOptions(max_tokens=2)).finish_reason == "length"


def test_cancelling_stops_within_one_token(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    stream = model.stream("a", FOREVER)
    tokens = [next(stream), next(stream)]
    stream.cancel()
    assert list(stream) == [] and len(session.calls) == len(tokens)
    assert model.generate("b", GenerationOptions(max_tokens=2)).tokens, "and the model is free"
    with pytest.raises(RuntimeFailure, match="cancelled"):
        complete(stream)


def test_a_long_prompt_stops_between_two_pieces(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    stream = model.stream("x" * 2000, FOREVER)
    session.gate = lambda: stream.cancel() if session.calls else None
    assert list(stream) == []
    assert session.calls == [256, 256], "the piece that was being computed, and no other"
    session.gate = lambda: None
    again = model.generate("x" * 2000, GenerationOptions(max_tokens=1))
    assert again.cached_tokens == 512, "what was computed is of use"


def test_another_thread_can_close_a_stream(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    begun, go_on = threading.Event(), threading.Event()
    stream = model.stream("a", FOREVER)
    next(stream)

    def hold() -> None:
        begun.set()
        go_on.wait(20)

    session.gate = hold
    read: list[int] = []
    reader = in_thread(lambda: read.extend(token.id for token in stream))
    assert begun.wait(20)
    closer = in_thread(stream.close)
    while not stream.ticket.is_cancelled:
        time.sleep(0.001)
    go_on.set()
    reader.join(20)
    closer.join(20)
    assert len(read) <= 1 and not reader.is_alive() and not closer.is_alive()


def test_one_who_waits_can_be_cancelled(slow: tuple[Model, Slow]) -> None:
    model, _ = slow
    first, second = model.stream("a", FOREVER), model.stream("b", FOREVER)
    next(first)
    read: list[object] = []
    reader = in_thread(lambda: read.append(list(second)))
    while not model._turns._waiting:
        time.sleep(0.001)
    second.close()
    reader.join(20)
    assert read == [[]]
    first.close()


def test_closing_ends_the_text_that_is_being_written(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    stream = model.stream("a", FOREVER)
    next(stream)
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            model.generate("b")
        except RuntimeFailure as error:
            failures.append(error)

    waiting = in_thread(wait)
    while not model._turns._waiting:
        time.sleep(0.001)
    model.close()
    model.close()
    waiting.join(20)
    assert session.is_closed and len(failures) == 1 and "the model is closed" in str(failures[0])
    with pytest.raises(RuntimeFailure, match="closed before this text ended"):
        next(stream)
    assert list(stream) == []
    for use in (lambda: model.stream("x"), lambda: model.chat([{"role": "user", "content": "x"}])):
        with pytest.raises(RuntimeFailure, match="the model is closed"):
            use()


def test_closing_waits_for_the_engine(slow: tuple[Model, Slow]) -> None:
    """Freeing memory that a call in another thread still reads would end the process."""
    model, session = slow
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        go_on.wait(20)
        seen.append(session.is_closed)

    session.gate = hold
    reader = in_thread(lambda: pytest.raises(RuntimeFailure, list, model.stream("a", FOREVER)))
    assert begun.wait(20)
    closer = in_thread(model.close)
    while not model._turns.is_closed:
        time.sleep(0.001)
    go_on.set()
    reader.join(20)
    closer.join(20)
    assert seen == [False] and session.is_closed


def test_a_model_nobody_has_any_more_frees_its_engine(byte_tokenizer: Tokenizer) -> None:
    session = Slow()
    model = Model(Parts(Container("gguf", Path("x")), HeldSession(session), byte_tokenizer, PLAIN, "a test"))
    stream = model.stream("a", FOREVER)
    next(stream)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is not None and not session.is_closed, "its text still needs it"
    del stream
    gc.collect()
    assert gone() is None and session.is_closed


def test_an_error_in_the_engine_leaves_the_model_usable(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    stream = model.stream("a", FOREVER)
    next(stream)

    def fail() -> None:
        raise RuntimeFailure("out of paper")

    session.gate = fail
    with pytest.raises(RuntimeFailure, match="out of paper"):
        next(stream)
    session.gate = lambda: None
    assert model.generate("b", GenerationOptions(max_tokens=2)).tokens


def test_an_empty_prompt_is_refused(slow: tuple[Model, Slow]) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        slow[0].stream("")


def test_too_much_is_refused_before_anything_is_computed(slow: tuple[Model, Slow]) -> None:
    model, session = slow
    with pytest.raises(RuntimeFailure, match="prompt of 4090 tokens and 100 new ones need a context of 4189"):
        model.stream("x" * 4090, GenerationOptions(max_tokens=100))
    assert session.calls == []


class Emoji(Slow):
    """Writes the bytes of a text, one token each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.script = [*text.encode(), 256]

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        logits = super().feed(tokens)
        logits[:] = 0
        logits[0, self.script[len(self.calls) - 1]] = 1
        return logits


def test_characters_come_whole_and_stop_strings_never_show(byte_tokenizer: Tokenizer) -> None:
    session = Emoji("grün 😀 one STOP two")
    parts = Parts(Container("gguf", Path("x")), HeldSession(session), byte_tokenizer, PLAIN, "a test")
    with Model(parts) as model:
        pieces = [token.text for token in model.stream("a", GenerationOptions(stop=("STOP", "nothing")))]
    assert "".join(pieces) == "grün 😀 one " and "ü" in pieces and "😀" in pieces
    assert not any("\ufffd" in piece or "S" in piece for piece in pieces)


@pytest.mark.parametrize("runtime", ["safetensors", "gguf"])
def test_vectors_and_scores_between_texts(packed_dir: Path, runtime: str) -> None:
    texts = ["def area(self) -> float:", "The quick brown fox", "def area(self) -> int:"]
    options = GenerationOptions(max_tokens=6)
    with load(packed_dir / runtime, options=OPTIONS, check="never") as model:
        before = model.generate(texts[0], options).tokens
        found = model.embed(texts)
        assert found.vectors.shape == (3, 64) and found.truncated == ()
        np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
        scored = model.score(texts[1])
        stream = model.stream(texts[1][:4], GenerationOptions(max_tokens=2, logprobs=True))
        assert next(stream).logprob is not None and scored.log_probability < 0
        with pytest.raises(RuntimeFailure, match="still reading another text"):
            model.embed(texts)
        with pytest.raises(RuntimeFailure, match="still reading another text"):
            model.score(texts[0])
        stream.close()
        assert model.generate(texts[0], options).tokens == before
        encoder = model._encoder
    assert encoder is not None
    with pytest.raises(RuntimeFailure, match="closed"):
        encoder.encode([[1]])
    with pytest.raises(RuntimeFailure, match="the model is closed"):
        model.embed(texts)


def test_a_scores_tokens_are_those_that_are_generated(model: Model) -> None:
    """ln p of a written token is the same from both sides."""
    prompt = "def area(self)"
    tokens = list(model.stream(prompt, GenerationOptions(max_tokens=1, logprobs=True)))
    text = model.tokenizer.decode([*model.tokenizer.encode(prompt), tokens[0].id])
    if model.tokenizer.encode(text) != [*model.tokenizer.encode(prompt), tokens[0].id]:
        pytest.skip("the tokenizer cuts the whole differently")
    assert model.score(text).log_probabilities[-1] == pytest.approx(tokens[0].logprob, abs=1e-4)
