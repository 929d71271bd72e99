"""Whose turn it is: one model writes one text at a time, and callers from other threads are served in the order they came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from edgeport.errors import RuntimeFailure


class Cancelled(Exception):
    """The reader of a text does not want it any more."""


class Ticket:
    """One caller's place in the queue. `is_cancelled` may be set from any thread, a signal handler included."""

    __slots__ = ("__weakref__", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False

    def raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            raise Cancelled


class Turns:
    """A queue for one model, and the lock under which its engine is called.

    The turn belongs to a ticket from the first token of a text to the last, however long its reader takes; the lock only to
    the thread that computes a token. So a model can be closed between two tokens of a text nobody goes on reading.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._holder: Ticket | None = None
        self._thread: int | None = None
        self._engine = threading.RLock()
        self.is_closed = False

    def take(self, ticket: Ticket, timeout_s: float | None = None) -> None:
        """Wait for the turn. Raises RuntimeFailure after `timeout_s`, when the model is closed, and at once for a thread
        that would wait for itself: the text that holds the model was last read in this thread and no timeout was given.
        Raises Cancelled when the ticket is.
        """
        with self._condition:
            if self._holder is ticket:
                return
            if timeout_s is None:
                self.check_not_own()
            self._waiting.append(ticket)
            try:
                served = self._condition.wait_for(lambda: self._is_next(ticket), timeout_s)
            finally:
                self._waiting.remove(ticket)
                self._condition.notify_all()
            self.check_open()
            if ticket.is_cancelled:
                raise Cancelled
            if not served:
                raise RuntimeFailure(
                    f"the model was busy with another text for {timeout_s:g} s",
                    hint="wait longer (timeout_s), close the other text, or load the model a second time",
                )
            self._holder, self._thread = ticket, threading.get_ident()

    def leave(self, ticket: Ticket) -> None:
        """Give the turn to the next one; harmless for a ticket that does not have it."""
        with self._condition:
            if self._holder is ticket:
                self._holder = self._thread = None
                self._condition.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Stop the ticket's text, or its waiting. Never waits itself."""
        with self._condition:
            ticket.is_cancelled = True
            self._condition.notify_all()

    @contextmanager
    def engine(self, ticket: Ticket) -> Iterator[None]:
        """Call the engine: whoever has the turn, one thread at a time."""
        with self._engine:
            if self._holder is ticket:
                self._thread = threading.get_ident()
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no engine is called, whoever has the turn."""
        with self._engine:
            yield

    @contextmanager
    def held(self, ticket: Ticket, timeout_s: float | None = None) -> Iterator[None]:
        """The turn for one piece of work that is done at once, engine included. Raises as `take` does."""
        self.take(ticket, timeout_s)
        try:
            with self.engine(ticket):
                self.check_open()
                yield
        finally:
            self.leave(ticket)

    def check_not_own(self) -> None:
        """Raises RuntimeFailure when the text that holds the model is being read in this very thread."""
        if self._holder is not None and self._thread == threading.get_ident():
            raise RuntimeFailure(
                "this thread is still reading another text of this model, and would wait for itself",
                hint="finish or close that one first, load the model a second time, or give a timeout_s to wait for another thread",
            )

    def check_open(self) -> None:
        if self.is_closed:
            raise RuntimeFailure("the model is closed", hint="load it again")

    def close(self) -> None:
        """Refuse everyone from now on, and stop the text that is being written."""
        with self._condition:
            self.is_closed = True
            if self._holder is not None:
                self._holder.is_cancelled = True
            self._condition.notify_all()

    def _is_next(self, ticket: Ticket) -> bool:
        is_free = self._holder is None and self._waiting[0] is ticket
        return is_free or self.is_closed or ticket.is_cancelled
