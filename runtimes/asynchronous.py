"""The same calls for asyncio: the engine works in one thread of the model's own, so the event loop never waits for it.

Tokens are handed over as they come and are not held back for a slow reader; a text that nobody wants any more is stopped after
the token that is being computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from edgeport.runtimes.completion import Completion, complete
from edgeport.runtimes.generate import Token
from edgeport.runtimes.token_stream import TokenStream
from edgeport.runtimes.turns import Ticket, Turns

Result = TypeVar("Result")
Open = Callable[[], TokenStream]


class Worker:
    """One thread, started by the first call that needs it."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, turns: Turns, work: Callable[[], Result]) -> Future[Result]:
        """Raises RuntimeFailure when the model is closed, or when this thread is reading a text of it: it would never come."""
        turns.check_open()
        turns.check_not_own()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="edgeport")
        return self._executor.submit(work)

    def stream(self, turns: Turns, open_stream: Open) -> AsyncTokenStream:
        return AsyncTokenStream(lambda work: self.submit(turns, work), open_stream)

    async def complete(self, turns: Turns, open_stream: Open) -> Completion:
        """Cancelling the task stops the text."""
        reader = _Reader(open_stream)
        try:
            return await asyncio.wrap_future(self.submit(turns, reader.complete))
        except asyncio.CancelledError:
            reader.cancel()
            raise

    async def run(self, turns: Turns, work: Callable[[Ticket], Result]) -> Result:
        """Work that is no text; cancelling the task stops it where it looks at its ticket."""
        ticket = Ticket()
        try:
            return await asyncio.wrap_future(self.submit(turns, lambda: work(ticket)))
        except asyncio.CancelledError:
            turns.cancel(ticket)
            raise

    async def close_elsewhere(self, close: Callable[[], None]) -> None:
        """Closing waits for a token, so it must not happen in the event loop."""
        await asyncio.to_thread(close)

    def close(self) -> None:
        """What still waits in the queue runs, and finds the model closed."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)


class AsyncTokenStream:
    """The asynchronous twin of TokenStream; `aclose` waits until the model is free again."""

    def __init__(self, submit: Callable[[Callable[[], None]], Future[None]], open_stream: Open) -> None:
        self._submit, self._open_stream = submit, open_stream
        self._relay: _Relay | None = None
        self._job: Future[None] | None = None
        self._is_over = False

    @property
    def stream(self) -> TokenStream | None:
        """The text itself, with its prompt_tokens, cached_tokens and dropped_messages, once its first token is there."""
        return self._relay.reader.stream if self._relay is not None else None

    def __aiter__(self) -> AsyncTokenStream:
        return self

    async def __anext__(self) -> Token:
        if self._is_over:
            raise StopAsyncIteration
        if self._relay is None:
            self._relay = _Relay(_Reader(self._open_stream), asyncio.get_running_loop(), asyncio.Queue())
            self._job = self._submit(self._relay.run)
        try:
            item = await self._relay.queue.get()
        except BaseException:
            self._stop()
            raise
        if isinstance(item, Token):
            return item
        self._is_over = True
        if item.error is not None:
            raise item.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._stop()
        if self._job is not None:
            await asyncio.wait([asyncio.wrap_future(self._job)])

    async def __aenter__(self) -> AsyncTokenStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_relay", None) is not None:
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        if self._relay is not None:
            self._relay.reader.cancel()
        if self._job is not None:
            self._job.cancel()  # if it has not begun


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Reader:
    """Reads one text in the worker's thread; may be cancelled from the event loop's, even before it began."""

    def __init__(self, open_stream: Open) -> None:
        self._open_stream = open_stream
        self._is_cancelled = False
        self.stream: TokenStream | None = None

    def open(self) -> TokenStream:
        self.stream = self._open_stream()
        if self._is_cancelled:
            self.stream.cancel()
        return self.stream

    def complete(self) -> Completion:
        return complete(self.open())

    def cancel(self) -> None:
        self._is_cancelled = True
        if self.stream is not None:
            self.stream.cancel()


class _Relay:
    """Carries tokens from the worker's thread into the queue of an event loop."""

    def __init__(
        self, reader: _Reader, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Token | _End]
    ) -> None:
        self.reader, self._loop, self.queue = reader, loop, queue

    def run(self) -> None:
        error: BaseException | None = None
        try:
            with self.reader.open() as stream:
                for token in stream:
                    self._send(token)
        except BaseException as caught:  # noqa: BLE001 - it is raised again where the text is read
            error = caught
        self._send(_End(error))

    def _send(self, item: Token | _End) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody reads this
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)
            return
        self.reader.cancel()
