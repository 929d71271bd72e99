"""Train every weight: what a pruned model needs, and what fits small ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.recover.folder import write_folder
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.student import Arrays, StudentOutput, StudentSettings, float_array
from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch

_BYTES_PER_PARAMETER = 16
"""float32 weight, gradient and both of Adam's moments."""


class FullStudent:
    """A `Student` whose float32 masters are all of the model; tied embeddings are one parameter."""

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        if settings.options:
            raise UsageError(f"training in full takes no options, got {', '.join(settings.options)}")
        self._source, self._settings = source, settings
        self._network = load_float_network(source, gradient_checkpointing=settings.gradient_checkpointing)
        self._parameters = dict(self._network.named_parameters())  # a tied head is not named again

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        return _BYTES_PER_PARAMETER * source.spec.parameters()

    def named_parameters(self) -> Mapping[str, torch.Tensor]:
        """For a kind that trains the same with a constraint of its own."""
        return self._parameters

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices with weight decay, norms and biases without."""
        settings = self._settings
        matrices = [parameter for parameter in self._parameters.values() if parameter.ndim >= 2]
        vectors = [parameter for parameter in self._parameters.values() if parameter.ndim < 2]
        return [
            {"params": matrices, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            {"params": vectors, "lr": settings.learning_rate, "weight_decay": 0.0},
        ]

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        output = self._network(tokens, use_cache=False, output_hidden_states=hidden_states)
        return StudentOutput(output.logits, output.hidden_states)

    def arrays(self) -> Arrays:
        return {name: float_array(parameter) for name, parameter in self._parameters.items()}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(np.array(arrays[name], dtype=np.float32)))

    def write(self, folder: Path) -> None:
        arrays = self.arrays()
        write_folder(self._source, folder, arrays.__getitem__)
