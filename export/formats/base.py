"""What a container format must offer: say what it cannot hold, and pack a checkpoint. Reading back is edgeport.export.verify's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import DecoderSpec
from edgeport.progress import Progress
from edgeport.scheme import TensorScheme


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """name: the artifact's name, used in metadata. context_length: what the runtime configuration should allow by default."""

    name: str
    context_length: int
    progress: Progress


class Format(Protocol):
    """One container format. `write` streams tensor by tensor into an existing empty directory."""

    name: str

    def reasons_against(self, spec: DecoderSpec, schemes: Sequence[TensorScheme], source: Path) -> list[str]:
        """Why this model, one of these schemes or the tokenizer in folder `source` cannot be held; empty when all can."""
        ...

    def write(self, checkpoint: Checkpoint, directory: Path, options: WriteOptions) -> Path:
        """Pack every tensor; return the entry point (the file or folder an engine opens)."""
        ...
