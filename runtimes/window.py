"""The bookkeeping every session shares: what fits, where we are, what may be fed. Engines are called only after it agreed.

An engine given a token outside its vocabulary or more tokens than its cache holds reads foreign memory or aborts, so
the checks come first and their messages are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.errors import RuntimeFailure, UsageError

DEFAULT_CONTEXT_LENGTH = 2048


def choose_context_length(asked: int | None, model_context_length: int) -> int:
    """What to allocate: `asked`, or min(the model's context, 2048). Raises UsageError beyond the model's context."""
    if asked is None:
        return min(model_context_length, DEFAULT_CONTEXT_LENGTH)
    if not 1 <= asked <= model_context_length:
        raise UsageError(
            f"context_length {asked} is not possible: this model was made for 1 to {model_context_length} tokens",
            hint=f"ask for at most {model_context_length}",
        )
    return asked


class Window:
    """Position and limits of one session."""

    __slots__ = ("_closed", "context_length", "position", "vocab_size")

    def __init__(self, context_length: int, vocab_size: int) -> None:
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.position = 0
        self._closed = False

    def admit(self, tokens: Sequence[int]) -> None:
        """Raise unless `tokens` can be fed now."""
        self.check_open()
        if not len(tokens):
            raise UsageError("feed needs at least one token")
        worst = next((token for token in tokens if not 0 <= token < self.vocab_size), None)
        if worst is not None:
            raise UsageError(f"token {worst} is outside of the vocabulary 0..{self.vocab_size - 1}")
        if self.position + len(tokens) > self.context_length:
            raise RuntimeFailure(
                f"{len(tokens)} more tokens after {self.position} do not fit the session's context of {self.context_length}",
                hint="open it with a larger context_length or feed less",
            )

    def check_rewind(self, position: int) -> None:
        self.check_open()
        if not 0 <= position <= self.position:
            raise UsageError(f"cannot rewind to {position}: the session holds {self.position} tokens")

    def check_open(self) -> None:
        if self._closed:
            raise RuntimeFailure("the session is closed", hint="open a new one")

    def close(self) -> bool:
        """True the first time: then the engine has to be released."""
        first = not self._closed
        self._closed = True
        return first
