"""A session whose next token depends on the last one alone: every score and text can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeport.runtimes.session import Logits


class BigramSession:
    """logits: [vocab_size, vocab_size], row = last token. `fed` counts tokens the engine had to run."""

    def __init__(self, logits: np.ndarray, context_length: int = 64) -> None:
        self._logits = logits.astype(np.float32)
        self.context_length = context_length
        self.fed = 0
        self.tokens: list[int] = []

    @property
    def vocab_size(self) -> int:
        return len(self._logits)

    @property
    def position(self) -> int:
        return len(self.tokens)

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        assert tokens and len(self.tokens) + len(tokens) <= self.context_length
        self.tokens += tokens
        self.fed += len(tokens)
        return self._logits[list(tokens) if all_logits else list(tokens)[-1:]]

    def rewind(self, position: int) -> None:
        assert 0 <= position <= len(self.tokens)
        del self.tokens[position:]

    def close(self) -> None:
        pass
