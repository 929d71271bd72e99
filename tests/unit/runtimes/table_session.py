"""Sessions without an engine: logits are a table over the last two tokens, so that every text is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Table:
    """A session whose next token depends on the last two; it refuses what a real one would."""

    def __init__(self, logits: np.ndarray, context_length: int = 64) -> None:
        self.logits, self.context_length = logits.astype(np.float32), context_length
        self.vocab_size = logits.shape[-1]
        self.fed: list[int] = []
        self.calls = 0

    @property
    def position(self) -> int:
        return len(self.fed)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> np.ndarray:
        assert tokens and len(self.fed) + len(tokens) <= self.context_length
        self.calls += 1
        rows = []
        for token in tokens:
            self.fed.append(token)
            rows.append(self.logits[self.fed[-2] if len(self.fed) > 1 else 0, token])
        return np.stack(rows if all_logits else rows[-1:])

    def rewind(self, position: int) -> None:
        assert 0 <= position <= self.position
        del self.fed[position:]

    def close(self) -> None:
        pass


def table(seed: int, vocab_size: int = 12) -> np.ndarray:
    """Logits [vocab_size, vocab_size, vocab_size]: token before the last, last token, next token."""
    return np.random.default_rng(seed).normal(size=(vocab_size, vocab_size, vocab_size)) * 1.5
