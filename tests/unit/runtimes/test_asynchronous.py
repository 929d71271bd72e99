"""The asynchronous twins: the same text, an event loop that never waits, and cancelling that frees the model."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeport.errors import RuntimeFailure
from edgeport.runtimes import GenerationOptions, Model, SessionOptions, load
from edgeport.runtimes.container import Container
from edgeport.runtimes.encoders.reference import ReferenceEncoder
from edgeport.runtimes.generation_defaults import PLAIN
from edgeport.runtimes.model import Parts
from edgeport.runtimes.prompt_cache import HeldSession
from edgeport.runtimes.session import Logits
from edgeport.runtimes.tokenizer import Tokenizer

PROMPT = "def area(self) -> float:"
EIGHT = GenerationOptions(max_tokens=8)
MANY = GenerationOptions(max_tokens=3000, ignore_stop_tokens=True)
MESSAGES = [{"role": "user", "content": "hi"}]


class Paced:
    """A session that takes a little while for each call, in native code as far as Python can tell: the lock is free."""

    vocab_size, context_length = 300, 4096

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls, self.position = seconds, 0, 0
        self.threads: set[str] = set()

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        self.calls += 1
        self.position += len(tokens)
        return np.zeros((len(tokens) if all_logits else 1, self.vocab_size), np.float32)

    def rewind(self, position: int) -> None:
        self.position = position

    def close(self) -> None:
        pass


@pytest.fixture
def paced(byte_tokenizer: Tokenizer) -> Iterator[tuple[Model, Paced]]:
    session = Paced(0.002)
    with Model(
        Parts(Container("gguf", Path("x")), HeldSession(session), byte_tokenizer, PLAIN, "a test")
    ) as model:
        yield model, session


@pytest.fixture(scope="module")
def model(packed_dir: Path) -> Iterator[Model]:
    options = SessionOptions(threads=1, context_length=128)
    with load(packed_dir / "safetensors", options=options, check="never") as opened:
        yield opened


def test_twins_say_the_same(model: Model) -> None:
    async def main() -> None:
        streamed = [token.id async for token in model.astream(PROMPT, EIGHT)]
        assert tuple(streamed) == model.generate(PROMPT, EIGHT).tokens
        assert (await model.agenerate(PROMPT, EIGHT)).tokens == tuple(streamed)
        chatted = [token.id async for token in model.astream_chat(MESSAGES, EIGHT)]
        assert tuple(chatted) == model.chat(MESSAGES, EIGHT).tokens
        assert (await model.achat(MESSAGES, EIGHT)).tokens == tuple(chatted)

    asyncio.run(main())


def test_many_at_once_are_served_one_after_the_other(model: Model) -> None:
    prompts = [f"def area_{number}" for number in range(4)]

    async def main() -> list[tuple[int, ...]]:
        return [
            answer.tokens for answer in await asyncio.gather(*(model.agenerate(p, EIGHT) for p in prompts))
        ]

    assert asyncio.run(main()) == [model.generate(prompt, EIGHT).tokens for prompt in prompts]


def test_the_event_loop_goes_on_meanwhile(paced: tuple[Model, Paced]) -> None:
    model, session = paced
    session.seconds = 0.3

    async def main() -> int:
        turns = 0
        text = asyncio.create_task(model.agenerate("a", GenerationOptions(max_tokens=2)))
        while not text.done():
            await asyncio.sleep(0.005)
            turns += 1
        return turns

    assert asyncio.run(main()) > 10
    assert {name.rpartition("_")[0] for name in session.threads} == {"edgeport"}, (
        "a thread of the model's own"
    )


@pytest.mark.parametrize("how", ["break", "aclose", "with"])
def test_leaving_the_loop_stops_the_text(how: str, paced: tuple[Model, Paced]) -> None:
    model, session = paced

    async def main() -> None:
        stream = model.astream("a", MANY)
        async for _ in stream:
            break
        if how == "aclose":
            await stream.aclose()
        elif how == "with":
            async with stream:
                pass
        del stream
        gc.collect()
        calls = session.calls
        assert (await model.agenerate("b", GenerationOptions(max_tokens=1))).tokens
        assert session.calls <= calls + 3, "at most the token under way, and the new text"

    asyncio.run(main())


def test_closing_a_stream_waits_until_the_model_is_free(paced: tuple[Model, Paced]) -> None:
    model, session = paced

    async def main() -> None:
        stream = model.astream("a", MANY)
        await anext(stream)
        await stream.aclose()
        calls = session.calls
        assert model.generate("b", GenerationOptions(max_tokens=1), timeout_s=0).tokens
        assert session.calls == calls + 1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["stream", "generate"])
def test_cancelling_the_task_stops_the_text(kind: str, paced: tuple[Model, Paced]) -> None:
    model, session = paced

    async def read() -> None:
        if kind == "generate":
            await model.agenerate("a", MANY)
        async for _ in model.astream("a", MANY):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        while session.calls < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        calls = session.calls
        assert (await model.agenerate("b", GenerationOptions(max_tokens=1))).tokens
        assert session.calls <= calls + 3

    asyncio.run(main())


def test_a_text_that_waits_can_be_cancelled_too(paced: tuple[Model, Paced]) -> None:
    model, _ = paced

    async def main() -> None:
        first = model.astream("a", MANY)
        await anext(first)
        waiting = asyncio.create_task(model.agenerate("b", MANY))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await anext(first)).finish_reason is None
        await first.aclose()

    asyncio.run(main())


def test_errors_come_where_the_text_is_read(paced: tuple[Model, Paced]) -> None:
    model, _ = paced

    async def main() -> None:
        with pytest.raises(RuntimeFailure, match="need a context of"):
            await anext(model.astream("a", GenerationOptions(max_tokens=9999)))
        with pytest.raises(RuntimeFailure, match="need a context of"):
            await model.agenerate("a", GenerationOptions(max_tokens=9999))
        held = model.stream("a", MANY)
        next(held)
        with pytest.raises(RuntimeFailure, match="still reading another text"):
            await model.agenerate("b")
        held.close()
        stream = model.astream("a", MANY)
        await anext(stream)
        await model.aclose()
        with pytest.raises(RuntimeFailure, match="closed"):
            async for _ in stream:
                pass
        with pytest.raises(RuntimeFailure, match="the model is closed"):
            await model.agenerate("b")

    asyncio.run(main())


def test_a_loop_that_ended_does_not_keep_the_model(paced: tuple[Model, Paced]) -> None:
    model, session = paced

    async def main() -> None:
        await anext(model.astream("a", MANY))

    asyncio.run(main())
    calls = session.calls
    assert model.generate("b", GenerationOptions(max_tokens=1), timeout_s=20).tokens
    assert session.calls <= calls + 3


def test_async_with_closes(packed_dir: Path) -> None:
    async def main() -> Model:
        async with load(packed_dir / "safetensors", check="never") as opened:
            assert (await opened.agenerate("x", GenerationOptions(max_tokens=1))).tokens
            return opened

    with pytest.raises(RuntimeFailure, match="closed"):
        asyncio.run(main()).generate("x")


def test_vectors_and_scores_with_await(model: Model) -> None:
    async def main() -> None:
        vectors = (await model.aembed([PROMPT, "hi"])).vectors
        np.testing.assert_array_equal(vectors, model.embed([PROMPT, "hi"]).vectors)
        assert await model.ascore(PROMPT) == model.score(PROMPT)

    asyncio.run(main())


def test_a_score_can_be_cancelled(paced: tuple[Model, Paced]) -> None:
    model, session = paced
    session.seconds = 0.02

    async def main() -> None:
        task = asyncio.create_task(model.ascore("x" * 4000))
        while session.calls < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert model.generate("b", GenerationOptions(max_tokens=1), timeout_s=20).tokens
    assert session.calls < 10, "it had 63 pieces"


def test_embedding_can_be_cancelled(packed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two groups of texts; the model is then free for the next caller."""
    with load(packed_dir / "safetensors", check="never") as model:
        model.embed(["hi"])
        calls = []
        encode = ReferenceEncoder.encode

        def counted(self: ReferenceEncoder, sequences: Any) -> Any:
            calls.append(len(sequences))
            time.sleep(0.02)
            return encode(self, sequences)

        monkeypatch.setattr(ReferenceEncoder, "encode", counted)

        async def main() -> None:
            task = asyncio.create_task(model.aembed(["some text"] * 3200))
            while not calls:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert model.embed(["hi"], timeout_s=20).vectors.shape == (1, 64)
        assert len(calls) < 50, "there were a hundred groups"
