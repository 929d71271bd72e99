"""How likely a text is to a model: ln p of each token given those before it, perplexity, bits per byte.

A text that is longer than the session's context is an error, or with `stride` goes through in overlapping windows, each of the
whole context, in which only tokens no earlier window has scored count.
Sources: Jelinek et al. 1977 (perplexity); https://huggingface.co/docs/transformers/perplexity (strided windows); The Pile,
arXiv:2101.00027, section 3.1 (bits per UTF-8 byte, which compares models with different vocabularies).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import RuntimeFailure, UsageError
from edgeport.progress import NO_PROGRESS, Progress
from edgeport.runtimes.session import Logits, Session
from edgeport.runtimes.tokenizer import Tokenizer

_PIECE_TOKENS = 64
"""Tokens fed at once where every row of logits is needed: 64 rows of a 150k vocabulary are 38 MB."""


@dataclass(frozen=True, slots=True)
class Score:
    """tokens: those that were scored. log_probabilities: ln p of each, in the same order.

    context_tokens: what the first of them was given, at least one token. text_bytes: UTF-8 bytes of the scored tokens; None
    when it is not known. windows: 1 unless the text was longer than the context.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    context_tokens: int = 1
    text_bytes: int | None = None
    windows: int = 1

    @property
    def log_probability(self) -> float:
        """ln p of the whole, given its context."""
        return math.fsum(self.log_probabilities)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative ln p; infinite where it is too large for a float."""
        try:
            return math.exp(-self.log_probability / len(self.tokens))
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float | None:
        return -self.log_probability / math.log(2) / self.text_bytes if self.text_bytes else None


def score_text(
    session: Session,
    tokenizer: Tokenizer,
    text: str,
    *,
    stride: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Score:
    """Score `text`. Where the tokenizer begins texts with a token of its own, all of the text is scored, else all but its
    first token, whose bytes then do not count. See `score_tokens` for the rest.
    """
    plain = tokenizer.encode(text, add_special_tokens=False)
    if not plain:
        raise UsageError("an empty text has no score")
    opening = _opening(tokenizer.encode(text), plain)
    unscored = b"" if opening else tokenizer.decode(plain[:1]).encode()
    scored = score_tokens(
        session, [*opening, *plain], context_tokens=len(opening) or 1, stride=stride, progress=progress
    )
    # half a character decodes to U+FFFD, whose length is not that of its bytes
    known = text.encode().startswith(unscored)
    return Score(
        scored.tokens,
        scored.log_probabilities,
        scored.context_tokens,
        len(text.encode()) - len(unscored) if known else None,
        scored.windows,
    )


def score_tokens(
    session: Session,
    tokens: Sequence[int],
    *,
    context_tokens: int = 1,
    stride: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Score:
    """Score all but the first `context_tokens` (at least 1) of `tokens`. The session starts anew and ends with some of them.

    stride: for more tokens than the context holds: so many are scored per window, each after at least context_length - stride
    others. Raises RuntimeFailure when it is needed and None, UsageError when it or the tokens are not possible.
    """
    if not 1 <= context_tokens < len(tokens):
        raise UsageError(
            f"{len(tokens)} tokens with {context_tokens} of context leave nothing to score",
            hint="a score needs at least one token of context and one more",
        )
    windows = list(_windows(len(tokens) - 1, session.context_length, stride))
    log_probabilities: list[float] = []
    with progress.stage("score", total=len(tokens) - context_tokens) as stage:
        for begin, fresh, end in windows:
            first = max(fresh, context_tokens - 1)
            session.rewind(0)
            for start, logits in _pieces(session, tokens, begin, first, end):
                found = token_log_probabilities(logits, tokens[start + 1 : start + 1 + len(logits)])
                log_probabilities += found.tolist()
                stage.advance(len(found))
    return Score(
        tuple(int(token) for token in tokens[context_tokens:]),
        tuple(log_probabilities),
        context_tokens,
        windows=len(windows),
    )


def token_log_probabilities(logits: Logits, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """ln p [rows] of one token per row of logits [rows, vocab_size]."""
    highest = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(logits)), np.asarray(tokens, np.int64)] - highest[:, 0]
    found: npt.NDArray[np.float64] = chosen.astype(np.float64) - np.log(total)
    return found


def _pieces(
    session: Session, tokens: Sequence[int], begin: int, first: int, end: int
) -> Iterator[tuple[int, Logits]]:
    """Feed tokens[begin:end]; yield the logits of those from `first` on, with the index of their first row."""
    if first > begin:
        session.feed(tokens[begin : min(first, end)])
    for start in range(first, end, _PIECE_TOKENS):
        yield start, session.feed(tokens[start : min(start + _PIECE_TOKENS, end)], all_logits=True)


def _windows(count: int, length: int, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(begin, first that is new, end) over `count` tokens to feed."""
    if count > length and stride is None:
        raise RuntimeFailure(
            f"a text of {count + 1} tokens does not fit the session's context of {length}",
            hint="open the model with a larger context_length, or pass a stride (half the context is usual) for overlapping windows",
        )
    if stride is not None and not 1 <= stride <= length:
        raise UsageError(f"stride is {stride}, it must be 1 to {length} (the context)")
    end = min(count, length)
    yield 0, 0, end
    while end < count and stride is not None:
        following = min(end + stride, count)
        yield following - length, end, following
        end = following


def _opening(tokens: Sequence[int], plain: Sequence[int]) -> list[int]:
    """What the tokenizer put before the text."""
    for start in range(len(tokens) - len(plain) + 1):
        if list(tokens[start : start + len(plain)]) == list(plain):
            return list(tokens[:start])
    return []
