"""Does a generation end in an endless loop: the same few tokens over and over until the token limit?

Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751), call a generation repetitive when it
ends in a phrase of at least two tokens repeated at least three times. That rule alone says yes to ordinary code and tables
(three rows of `0, 0,`), so a loop here must also be long: at least four copies, at least LEAST_TOKENS tokens in all, and it
must reach the last token, so a text that ends by itself with a stop token is none. Copies must be equal token by token: a
loop that counts (`x1`, `x2`, ...) is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_COPIES = 4
LEAST_TOKENS = 24
LONGEST_PERIOD = 64


@dataclass(frozen=True, slots=True)
class Loop:
    """period: tokens until the same one comes again. tokens: length of the whole repeating end."""

    period: int
    tokens: int

    @property
    def copies(self) -> int:
        """Whole copies of the phrase."""
        return self.tokens // self.period


def find_loop(tokens: Sequence[int]) -> Loop | None:
    """The loop of shortest period that `tokens` end in, or None."""
    for period in range(1, min(LONGEST_PERIOD, len(tokens) // LEAST_COPIES) + 1):
        length = _periodic_end(tokens, period)
        if length >= max(LEAST_COPIES * period, LEAST_TOKENS):
            return Loop(period, length)
    return None


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether `tokens` (a generation without its prompt) end in a loop as this module defines it."""
    return find_loop(tokens) is not None


def _periodic_end(tokens: Sequence[int], period: int) -> int:
    """How many tokens at the end repeat with this period; at least `period`."""
    at = len(tokens) - 1 - period
    while at >= 0 and tokens[at] == tokens[at + period]:
        at -= 1
    return len(tokens) - 1 - at
