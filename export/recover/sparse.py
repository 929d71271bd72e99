"""Train the weights that are not zero: what `edgeport sparsify` left, or pruned to a pattern elsewhere, keeps its zeros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.recover.full import FullStudent
from edgeport.export.recover.student import Arrays, StudentOutput, StudentSettings
from edgeport.export.source import SourceModel

if TYPE_CHECKING:
    import torch

_MASK_BYTES = 1


class SparseStudent:
    """A `Student` whose zeros in the decoder's linears stay: their gradients are masked, so that Adam's moments of them, and
    with these the weights, remain exactly zero. Raises UsageError for a model without zeros."""

    def __init__(self, source: SourceModel, settings: StudentSettings) -> None:
        self._full = FullStudent(source, settings)
        masked = 0
        linears = {item.name for item in source.spec.tensors() if item.role == "linear"}
        for name, parameter in self._full.named_parameters().items():
            if name in linears:
                mask = parameter.detach() != 0
                masked += int((~mask).sum())
                parameter.register_hook(_masking(mask))
        if not masked:
            raise UsageError(
                f"no zeros in the decoder's linears of {source.name}",
                hint="run `edgeport sparsify` first, or use --student-kind full",
            )

    @staticmethod
    def state_bytes(source: SourceModel, settings: StudentSettings) -> int:
        return FullStudent.state_bytes(source, settings) + _MASK_BYTES * source.spec.parameters()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._full.parameter_groups()

    def forward(self, tokens: torch.Tensor, *, hidden_states: bool) -> StudentOutput:
        return self._full.forward(tokens, hidden_states=hidden_states)

    def arrays(self) -> Arrays:
        return self._full.arrays()

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._full.restore(arrays)

    def write(self, folder: Path) -> None:
        self._full.write(folder)


def _masking(mask: torch.Tensor) -> Any:
    def apply(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * mask

    return apply
