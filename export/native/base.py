"""What a format's own scheme must offer: say what it cannot take, foretell its size, and write the container itself.

A native scheme decides codes and scales by code that is not ours (llama.cpp's K-quants, bitsandbytes' NF4), so it starts
from the source model and not from the checkpoint, and its weights are not those of the portable containers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.source import SourceModel


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be written, before it is.

    size_bytes: the payload of all tensors; metadata and tokenizer come on top. bits_per_weight: size_bytes * 8 over the
    parameters, each tied tensor counted once. notes: what differs from what the scheme's name promises, for people.
    """

    size_bytes: int
    bits_per_weight: float
    notes: tuple[str, ...] = ()


class NativeFormat(Protocol):
    """One scheme of one container format, e.g. `gguf-q4_k_m`; `base` is the format whose engine opens it, e.g. `gguf`.

    needs_statistics: an export runs a calibration pass for it. `write` may do without, with worse weights.
    """

    @property
    def name(self) -> str: ...

    @property
    def base(self) -> str: ...

    @property
    def needs_statistics(self) -> bool: ...

    def reasons_against(self, source: SourceModel) -> list[str]:
        """Why this model cannot be written in this scheme; empty when it can."""
        ...

    def forecast(self, spec: DecoderSpec) -> Forecast: ...

    def write(
        self, source: SourceModel, statistics: Path | None, directory: Path, options: WriteOptions
    ) -> Path:
        """Write the container into the existing empty `directory`; return its entry point.

        statistics: the file of a calibration pass (`NAME.second_moment` by Hugging Face name), or None.
        Raises UnsupportedModel, UsageError (statistics missing), RuntimeFailure (the engine's code fails).
        """
        ...
