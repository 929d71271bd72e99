"""The waist for embeddings: token sequences in, the hidden states of the last layer after its norm out.

A decoder and an encoder look alike through it: each sequence is its own, nothing is kept between calls. Whether an engine pads
several sequences into one run is the adapter's business, and so are attention masks and token types; results are those of
each sequence alone. Pooling and normalization are written once above it (edgeport.runtimes.embedding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgeport.errors import EdgeportError, MissingExtra, RuntimeFailure, UsageError
from edgeport.lazy import load
from edgeport.manifest import base_format
from edgeport.runtimes.engine_settings import DEFAULT_SETTINGS
from edgeport.runtimes.engines import ENGINES, unavailable_because
from edgeport.runtimes.session import SessionOptions
from edgeport.runtimes.threads import first_count

HiddenStates = npt.NDArray[np.float32]


class Encoder(Protocol):
    """One loaded container. Not thread-safe."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """The longest sequence."""
        ...

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        """States [len(sequence), hidden_size] of each sequence, in their order; the arrays are the caller's.

        Raises UsageError for an empty sequence or a token outside of the vocabulary, RuntimeFailure for a sequence longer
        than the context, all before the engine is called; RuntimeFailure when the engine fails or was closed.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory; closing twice is harmless."""
        ...


ENCODERS: Mapping[str, str] = {
    "openvino": "edgeport.runtimes.encoders.openvino:open_encoder",
    "gguf": "edgeport.runtimes.encoders.gguf:open_encoder",
    "onnx": "edgeport.runtimes.encoders.onnx:open_encoder",
    "safetensors": "edgeport.runtimes.encoders.reference:open_encoder",
}
"""By format; the engine and its extra are those of edgeport.runtimes.engines."""


def open_encoder(format_name: str, path: Path, options: SessionOptions) -> Encoder:
    """Open a container for its hidden states: a second copy of the weights beside an open session.

    context_length None means min(the model's, 2048), as for a session. Raises MissingExtra when the engine is not installed,
    RuntimeFailure when it refuses the file, UnsupportedModel when the graph's last hidden state cannot be found.
    """
    kind = base_format(format_name)
    if kind not in ENCODERS:
        raise UsageError(
            f"no encoder for the format {format_name!r}", hint=f"formats are {', '.join(ENCODERS)}"
        )
    reason = unavailable_because(kind)
    if reason is not None:
        message, _, hint = reason.partition(": ")
        raise MissingExtra(message, hint=hint)
    opener = cast(
        "Callable[[Path, SessionOptions], Encoder]", load(ENCODERS[kind], extra=ENGINES[kind].extra)
    )
    return opener(Path(path), options)


def encoder_threads(options: SessionOptions) -> int:
    """A run of an encoder is like a prompt: many tokens at once. Other engine settings are about decoding or its cache."""
    settings = options.settings or DEFAULT_SETTINGS
    return first_count(options.threads, settings.prompt_threads, settings.threads)


class SequenceLimits:
    """What every encoder refuses before its engine is called: a foreign token makes an engine read foreign memory."""

    __slots__ = ("_closed", "context_length", "vocab_size")

    def __init__(self, context_length: int, vocab_size: int) -> None:
        self.context_length = context_length
        self.vocab_size = vocab_size
        self._closed = False

    def admit(self, sequences: Sequence[Sequence[int]]) -> None:
        """Raise unless all of them can be encoded now; the message names the one that cannot."""
        if self._closed:
            raise RuntimeFailure("the encoder is closed", hint="open a new one")
        for number, sequence in enumerate(sequences):
            error = self._objection(sequence)
            if error is not None:
                where = f"sequence {number}: " if len(sequences) > 1 else ""
                raise type(error)(where + error.message, hint=error.hint)

    def close(self) -> bool:
        """True the first time: then the engine has to be released."""
        first = not self._closed
        self._closed = True
        return first

    def _objection(self, sequence: Sequence[int]) -> EdgeportError | None:
        if not len(sequence):
            return UsageError("a sequence needs at least one token")
        worst = next((token for token in sequence if not 0 <= token < self.vocab_size), None)
        if worst is not None:
            return UsageError(f"token {worst} is outside of the vocabulary 0..{self.vocab_size - 1}")
        if len(sequence) > self.context_length:
            return RuntimeFailure(
                f"{len(sequence)} tokens do not fit the encoder's context of {self.context_length}",
                hint="open it with a larger context_length, shorten the text, or allow truncation",
            )
        return None
