"""What the trainer trains. The trainer knows losses, schedule and checkpoints; a student knows which numbers move.

A kind of student is one file with one class, `Class(source, settings)`, and one line in `STUDENTS` (students.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class StudentSettings:
    """What every kind is given. The trainer scales each group's `lr` by the schedule, so these are peak values.

    options: what only this kind knows (a rank, a scheme) as plain TOML values; the kind checks them.
    seed: for a kind that draws its first numbers; the same seed gives the same start.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    gradient_checkpointing: bool = False
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StudentOutput:
    """logits: [batch, n_ctx, vocab_size]; hidden_states: layers + 1 of [batch, n_ctx, hidden_size] as transformers gives
    them (before layer 0, after each layer, the last one behind the final norm), or None when they were not asked for."""

    logits: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None


class Student(Protocol):
    """One model in training, in float32 masters. It must not change between two calls but by the optimizer and `restore`."""

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        """Load the weights. Raises UsageError for options it does not know; the trainer has set torch's threads."""

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        """Memory of weights, gradients and both Adam moments; activations are the trainer's to count."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimizer: [{"params": [...], "lr": ..., "weight_decay": ...}], the same order after every construction."""

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        """tokens: int64 [batch, n_ctx]. Called under autocast and under no_grad too."""

    def arrays(self) -> Arrays:
        """All that training changes, by name, in safetensors' dtypes: for checkpoints and for the best state. May be views."""

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Set, in place, what `arrays` gave: the optimizer holds the same tensors. Bit for bit."""

    def write(self, folder: Path) -> None:
        """A stock Hugging Face folder in the source's dtypes, whatever was added merged in float. `folder` exists, empty."""


def float_array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    """A float32 view of a parameter's values, without its gradient."""
    values: npt.NDArray[np.float32] = tensor.detach().numpy()
    return values
