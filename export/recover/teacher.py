"""Who the student learns from: a model asked for each batch, or asked once and remembered on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgeport.export.recover.losses import FullTarget, LossSettings, Target
from edgeport.export.recover.network import freeze, load_float_network
from edgeport.export.recover.precision import autocast
from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch


class Teacher(Protocol):
    """Windows are named by their numbers in the training text, so that an answer can be remembered."""

    def targets(self, numbers: npt.NDArray[np.int64], tokens: torch.Tensor) -> Target:
        """What it says to tokens [batch, n_ctx], which are the windows `numbers`."""

    def sync(self) -> None:
        """Everything said so far may now be relied on after a kill."""


class LiveTeacher:
    """A model in memory. `vocab_size`: the ids that both models have; logits of others are padding."""

    def __init__(self, source: SourceModel, loss: LossSettings, *, precision: str, vocab_size: int) -> None:
        self._network = freeze(load_float_network(source), precision)
        self._hidden, self._precision, self._vocab_size = loss.hidden_weight > 0, precision, vocab_size

    def targets(self, numbers: npt.NDArray[np.int64], tokens: torch.Tensor) -> FullTarget:
        import torch

        with torch.no_grad(), autocast(self._precision):
            output = self._network(tokens, use_cache=False, output_hidden_states=self._hidden)
        return FullTarget(output.logits[..., : self._vocab_size], output.hidden_states)

    def sync(self) -> None:
        return None
