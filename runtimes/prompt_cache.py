"""What a session still holds is not computed twice: a prompt begins where it parts from the text before.

A chat sends the whole conversation again with each message, and a program the same instructions with each question. The
session's cache already has them: it is rewound to the last shared token, and only what follows is fed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeport.errors import RuntimeFailure
from edgeport.runtimes.session import Logits, Session
from edgeport.runtimes.turns import Cancelled, Ticket

PIECE_TOKENS = 256
"""A long prompt is fed in pieces, so that it can be stopped between two of them."""
WORTH_TOKENS = 8
"""Fewer shared tokens than that are cheaper to compute again than to rewind to: some engines copy their cache for it."""


class HeldSession:
    """A Session (edgeport.runtimes.session) that knows its tokens, and stops between pieces when its ticket is cancelled."""

    def __init__(self, session: Session, piece_tokens: int = PIECE_TOKENS) -> None:
        self._session, self._piece_tokens = session, piece_tokens
        self._tokens: list[int] = []
        self.ticket = Ticket()

    @property
    def vocab_size(self) -> int:
        return self._session.vocab_size

    @property
    def context_length(self) -> int:
        return self._session.context_length

    @property
    def position(self) -> int:
        return self._session.position

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        """As every session; raises Cancelled before any piece."""
        if self.ticket.is_cancelled:
            raise Cancelled
        if len(tokens) <= self._piece_tokens or self.position + len(tokens) > self.context_length:
            return self._feed(tokens, all_logits)
        rows = []
        for begin in range(0, len(tokens), self._piece_tokens):
            if self.ticket.is_cancelled:
                raise Cancelled
            rows.append(self._feed(tokens[begin : begin + self._piece_tokens], all_logits))
        return np.concatenate(rows) if all_logits else rows[-1]

    def rewind(self, position: int) -> None:
        self._session.rewind(position)
        del self._tokens[position:]

    def rewind_to_shared(self, prompt: Sequence[int]) -> int:
        """Keep what `prompt` begins with, all but its last token at most; how many tokens that is."""
        known = self._tokens if len(self._tokens) == self.position else []
        shared = shared_length(known, prompt[:-1])
        if shared >= WORTH_TOKENS:
            try:
                self.rewind(shared)
                return shared
            except RuntimeFailure:
                pass  # models with a recurrent state or a sliding window cannot go back part of the way
        self.rewind(0)
        return 0

    def close(self) -> None:
        self._session.close()

    def _feed(self, tokens: Sequence[int], all_logits: bool) -> Logits:
        try:
            logits = self._session.feed(tokens, all_logits=all_logits)
        except BaseException:
            self._tokens.clear()  # an engine that was interrupted may hold anything: the next text starts anew
            raise
        self._tokens.extend(tokens)
        return logits


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
