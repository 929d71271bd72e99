"""How sparse a model folder is, counted in its files, and what that is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeport.export.source import SourceModel
from edgeport.export.sparsify.settings import SparsifySettings

NO_SPEED = (
    "no engine that edgeport writes for computes faster with these zeros: their kernels multiply every weight. A compressed "
    "download is smaller. To be faster, prune whole channels, heads or layers (docs/sparsity.md)"
)


@dataclass(frozen=True, slots=True)
class TensorSparsity:
    name: str
    weights: int
    zeros: int


@dataclass(frozen=True, slots=True)
class SparsifyReport:
    """tensors: the decoder's linears. schedule: sparsity asked for after each round. parameters: of the whole model."""

    settings: SparsifySettings
    tensors: tuple[TensorSparsity, ...]
    parameters: int
    schedule: tuple[float, ...]
    text_origin: str | None
    notes: tuple[str, ...] = (NO_SPEED,)

    @property
    def zeros(self) -> int:
        return sum(item.zeros for item in self.tensors)

    @property
    def sparsity(self) -> float:
        """Share of zeros in the decoder's linears."""
        return self.zeros / sum(item.weights for item in self.tensors)

    def to_document(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_document(),
            "schedule": list(self.schedule),
            "sparsity": self.sparsity,
            "zeros": self.zeros,
            "parameters": self.parameters,
            "calibration": self.text_origin,
            "tensors": {item.name: {"weights": item.weights, "zeros": item.zeros} for item in self.tensors},
            "notes": list(self.notes),
        }


def count_zeros(model: SourceModel) -> tuple[TensorSparsity, ...]:
    """Zeros of each linear of the decoder, as stored."""
    found = []
    for item in model.spec.tensors():
        if item.role == "linear":
            values = model.tensor(item.name)
            found.append(TensorSparsity(item.name, values.size, int(np.count_nonzero(values == 0))))
            model.weights.release(item.name)
    return tuple(found)


def role_table(report: SparsifyReport) -> Mapping[str, float]:
    """Share of zeros by kind of linear, e.g. `mlp.down_proj`, over all layers."""
    sums: dict[str, list[int]] = {}
    for item in report.tensors:
        kind = ".".join(item.name.split(".")[3:5])
        counted = sums.setdefault(kind, [0, 0])
        counted[0] += item.zeros
        counted[1] += item.weights
    return {kind: zeros / weights for kind, (zeros, weights) in sums.items()}
