"""Hidden states in plain numpy: what the engines' are compared with, and an encoder where no engine is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeport.runtimes import reference
from edgeport.runtimes.encoder import HiddenStates, SequenceLimits
from edgeport.runtimes.session import SessionOptions


def open_encoder(path: Path, options: SessionOptions) -> ReferenceEncoder:
    """`path` is a folder with config.json and safetensors, or a file in it."""
    return ReferenceEncoder(reference.open_session(path, options))


class ReferenceEncoder:
    """One sequence after the other; see edgeport.runtimes.encoder.Encoder."""

    def __init__(self, session: reference.ReferenceSession) -> None:
        self._session = session
        self._limits = SequenceLimits(session.context_length, session.vocab_size)
        self.hidden_size = session.hidden_size

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        self._limits.admit(sequences)
        return [self._encode(sequence) for sequence in sequences]

    def close(self) -> None:
        if self._limits.close():
            self._session.close()

    def _encode(self, tokens: Sequence[int]) -> HiddenStates:
        self._session.rewind(0)
        return self._session.hidden_states(tokens)
