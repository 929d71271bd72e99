"""Train low-rank adapters over frozen float32 weights, and merge them before anything is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeport.export.recover.adapters import Adapters, adapter_bytes, read_adapter_settings
from edgeport.export.recover.folder import write_folder
from edgeport.export.recover.network import load_float_network
from edgeport.export.recover.student import Arrays, StudentOutput, StudentSettings
from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch

_BASE_BYTES = 4


class LoraStudent:
    """A `Student` that trains adapters alone: gradients and moments of a few percent of the weights.

    Options: see `adapters.read_adapter_settings`.
    """

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        self._source = source
        read_adapter_settings(settings.options, source.spec)  # before anything is loaded
        network = load_float_network(source, gradient_checkpointing=settings.gradient_checkpointing)
        self._adapters = Adapters(network, source.spec, settings)

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        wanted = read_adapter_settings(settings.options, source.spec)
        return _BASE_BYTES * source.spec.parameters() + adapter_bytes(source.spec, wanted)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._adapters.parameter_groups()

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        output = self._adapters.network(tokens, use_cache=False, output_hidden_states=hidden_states)
        return StudentOutput(output.logits, output.hidden_states)

    def arrays(self) -> Arrays:
        return self._adapters.arrays()

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._adapters.restore(arrays)

    def write(self, folder: Path) -> None:
        """Merged in float32, rounded once to the source's dtypes."""
        source = self._source
        write_folder(source, folder, lambda name: self._adapters.merged(name, source.tensor(name)))
