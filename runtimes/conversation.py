"""Make a conversation fit the context: whole messages are left out, the oldest first, and the caller is told which.

Nothing is ever cut within a message, and without being asked nothing is left out at all: that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from edgeport.errors import UsageError
from edgeport.runtimes.tokenizer import Message

Overflow = Literal["error", "drop_oldest_messages"]


def fit(
    messages: Sequence[Message],
    tokens_of: Callable[[Sequence[Message]], list[int]],
    limit_tokens: int,
    overflow: Overflow,
) -> tuple[list[int], tuple[Message, ...]]:
    """The prompt's tokens and the messages that were left out.

    System messages at the beginning and the last message stay. A question goes with its answer: what is left begins with a
    user's message, as templates want it. What still does not fit is returned as it is, for `generate` to refuse.
    """
    if overflow not in get_args(Overflow):
        raise UsageError(
            f"overflow is {overflow!r}", hint=f"it can be {' or '.join(map(repr, get_args(Overflow)))}"
        )
    tokens = tokens_of(messages)
    if overflow == "error" or len(tokens) <= limit_tokens:
        return tokens, ()
    kept_first = next((index for index, item in enumerate(messages) if item["role"] != "system"), 0)
    opening, rest = list(messages[:kept_first]), list(messages[kept_first:])
    dropped: list[Message] = []
    while len(tokens) > limit_tokens and len(rest) > 1:
        dropped.append(rest.pop(0))
        while len(rest) > 1 and rest[0]["role"] != "user":
            dropped.append(rest.pop(0))
        tokens = tokens_of([*opening, *rest])
    return tokens, tuple(dropped)
