"""The iterator behind `model.stream`: it waits for its turn, holds the model until its end, and can be stopped from anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from types import TracebackType

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.generate import Token
from edgeport.runtimes.tokenizer import Message
from edgeport.runtimes.turns import Cancelled, Ticket, Turns

Begin = Callable[["TokenStream"], Generator[Token]]
"""Prepares the sessions and returns the tokens; called when it is this text's turn."""


class TokenStream:
    """Tokens of one text. Nothing is computed before the first is asked for; the model is free again after the last.

    Close it (or use `with`, or drop it) to stop early; `cancel` does that from another thread or a signal handler without
    waiting. A closed or cancelled text ends without a finish_reason. Raises RuntimeFailure when the model is closed.

    prompt_tokens: of the prompt. cached_tokens: of these, how many were not computed again, known from the first token on.
    dropped_messages: what was left out of a conversation that did not fit (edgeport.runtimes.conversation).
    """

    def __init__(
        self,
        turns: Turns,
        prompt: Sequence[int],
        begin: Begin,
        timeout_s: float | None = None,
        dropped_messages: tuple[Message, ...] = (),
    ) -> None:
        self.prompt, self.dropped_messages, self.ticket = prompt, dropped_messages, Ticket()
        self.cached_tokens = 0
        self.begun_s: float | None = None
        self._turns, self._begin, self._timeout_s = turns, begin, timeout_s
        self._tokens: Generator[Token] | None = None
        self._is_over = False

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Token:
        if self._is_over:
            raise StopIteration
        try:
            self._turns.take(self.ticket, self._timeout_s)
        except Cancelled:
            self._is_over = True
            raise StopIteration from None
        with self._turns.engine(self.ticket):
            try:
                token = self._step()
            except BaseException:
                self._finish()
                raise
            if token.finish_reason is not None:
                self._finish()
            return token

    def cancel(self) -> None:
        """Stop after the token (or the piece of the prompt) that is being computed. Never waits."""
        self._turns.cancel(self.ticket)

    def close(self) -> None:
        """Stop, and wait until the model is free; at most as long as one token or one piece of the prompt takes."""
        self.cancel()
        if self._tokens is None:  # nothing was computed: there is nothing to wait for
            self._is_over = True
            return
        with self._turns.engine(self.ticket):
            self._finish()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # An unfinished text that nobody can read any more must not hold the model.
        if not getattr(self, "_is_over", True):
            self.close()

    def _step(self) -> Token:
        if self._turns.is_closed:
            raise RuntimeFailure("the model was closed before this text ended", hint="load it again")
        if self.ticket.is_cancelled or self._is_over:
            raise StopIteration
        try:
            if self._tokens is None:
                self.begun_s = time.perf_counter()
                self._tokens = self._begin(self)
            return next(self._tokens)
        except Cancelled:
            if self._turns.is_closed:
                raise RuntimeFailure(
                    "the model was closed before this text ended", hint="load it again"
                ) from None
            raise StopIteration from None

    def _finish(self) -> None:
        """Under the engine's lock."""
        self._is_over = True
        if self._tokens is not None:
            with suppress(RuntimeFailure):  # the engine may be closed already
                self._tokens.close()
        self._turns.leave(self.ticket)
