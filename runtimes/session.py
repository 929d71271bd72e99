"""The waist between an engine and everything above it: feed tokens, get logits; rewind; close.

Generation, sampling, streaming, chat, perplexity and benchmarks are written once above this protocol, so that every
engine is compared under the same tokenizer, sampler and clock. Positions count tokens; one session holds one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeport.runtimes.engine_settings import EngineSettings

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How to open a session.

    threads: None means the physical cores this process may use (cgroup quota and affinity respected).
    context_length: tokens the KV cache must hold; None means min(model's context, 2048).
    exact: the engine's most exact arithmetic (float32 activations and KV cache where the engine has them), for parity
        tests; False is what ships.
    settings: how the engine computes (edgeport.runtimes.engine_settings); None is the adapter's choice. `threads` here wins over
        the settings' own, and `exact` over those that change logits.
    """

    threads: int | None = None
    context_length: int | None = None
    exact: bool = False
    settings: EngineSettings | None = None


class Session(Protocol):
    """One loaded container and one token sequence. Not thread-safe."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Tokens this session can hold; feeding more raises RuntimeFailure before the engine is called."""
        ...

    @property
    def position(self) -> int:
        """Tokens fed and not rewound."""
        ...

    def feed(self, tokens: Sequence[int], *, all_logits: bool = False) -> Logits:
        """Append tokens; return logits [1, vocab_size] of the last one, or [len(tokens), vocab_size] for all."""
        ...

    def rewind(self, position: int) -> None:
        """Forget every token at and after `position` (0 <= position <= self.position)."""
        ...

    def close(self) -> None: ...
