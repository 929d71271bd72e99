"""Tokens to text as they come: never half a character, never a part of a stop string.

A character may be spread over tokens and a token over characters. A short window is decoded again with each token and the
text waits while it ends in an incomplete character. Stop strings may begin in one token and end in another.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeport.errors import UsageError
from edgeport.runtimes.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes in UTF-8: after four tokens without a character the bytes are wrong, not unfinished."""


class TextStream:
    """Pieces whose concatenation is the text of all tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._begin = (
            0  # where the decoded window begins: one piece before what is pending, for its left context
        )
        self._read = 0  # tokens whose text was given out

    def push(self, token: int) -> str:
        """The text that became certain with this token, often empty for characters of several tokens."""
        self._tokens.append(token)
        return self._take(final=len(self._tokens) - self._read > _LONGEST_CHARACTER)

    def finish(self) -> str:
        """What still waited, incomplete characters as U+FFFD."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        known = self._tokenizer.decode(self._tokens[self._begin : self._read])
        text = self._tokenizer.decode(self._tokens[self._begin :])
        if text.endswith(_INCOMPLETE) and not final:
            return ""
        if len(text) > len(known):
            self._begin, self._read = self._read, len(self._tokens)
        return text[len(known) :]


class StopStrings:
    """Cuts a stream of text at the first stop string; what could be the beginning of one waits."""

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise UsageError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._waiting = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """The text that certainly comes before any stop string. After `found` is set it is always empty."""
        if self.found is not None:
            return ""
        self._waiting += text
        hits = [(self._waiting.find(stop), stop) for stop in self._stops if stop in self._waiting]
        if hits:
            index, self.found = min(hits)
            return self._release(index)
        return self._release(len(self._waiting) - self._held())

    def finish(self) -> str:
        """What still waited and turned out to be no stop string."""
        return "" if self.found is not None else self._release(len(self._waiting))

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for size in range(min(longest - 1, len(self._waiting)), 0, -1):
            if any(stop.startswith(self._waiting[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, count: int) -> str:
        text, self._waiting = self._waiting[:count], self._waiting[count:]
        return text
