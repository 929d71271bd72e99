"""Dequantized weights to run a model with: as a quick solver would leave them, or as a finished checkpoint has them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.quantize.imatrix import prepare
from edgeport.export.quantize.tensor import FLOAT_DTYPES
from edgeport.export.recipe import Recipe, snap
from edgeport.export.safetensors_file import DTYPES, SafetensorsFile
from edgeport.export.source import SourceModel
from edgeport.scheme import TensorScheme

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_PIECE_ELEMENTS = 1 << 21


class WeightsOf(Protocol):
    """Values of a model's tensors after some quantization."""

    def values(self, item: TensorSpec, rows: Rows | None = None) -> Floats:
        """float32 in the tensor's shape, or only the given rows of it."""
        ...


@dataclass(frozen=True, slots=True)
class QuickSolver:
    """rtn's search, weighted by the input's mean squares where `statistics` (statistics.safetensors) has them.

    No calibration pass and no order of layers, so any tensor can be had at any time: codes of gptq differ, the ranking of
    tensors hardly does.
    """

    source: SourceModel
    statistics: Path | None

    @property
    def name(self) -> str:
        return "rtn" if self.statistics is None else "imatrix"

    def digest(self) -> str:
        """Names what the values depend on beside the source."""
        if self.statistics is None:
            return self.name
        return f"{self.name} {hashlib.sha256(self.statistics.read_bytes()).hexdigest()}"

    def quantized(self, item: TensorSpec, scheme: TensorScheme, rows: Rows | None = None) -> Floats:
        """The tensor, or the given rows of it, in `scheme` (snapped to its rows) and back in float32."""
        stored = self.source.tensor(item.name)
        chosen = stored if rows is None else stored[rows]
        snapped = snap(scheme, item.shape[-1])
        result = np.empty(chosen.shape, dtype=np.float32)
        if not snapped.is_quantized:
            result[:] = chosen.astype(DTYPES[FLOAT_DTYPES[snapped.kind]])
            return result
        solve = prepare(self._statistics_of(item.name))
        step = max(_PIECE_ELEMENTS // chosen.shape[1], 1)
        for start in range(0, len(chosen), step):
            piece = chosen[start : start + step].astype(np.float32)
            result[start : start + step] = solve(piece, snapped).dequantize()
        self.source.weights.release(item.name)
        return result

    def _statistics_of(self, name: str) -> InputStatistics | None:
        if self.statistics is None:
            return None
        file = SafetensorsFile(self.statistics)
        if f"{name}.second_moment" not in file.entries:
            return None
        second, magnitude = (
            np.array(file.tensor(f"{name}.{kind}")) for kind in ("second_moment", "mean_magnitude")
        )
        return InputStatistics(0, second, magnitude)


@dataclass(frozen=True, slots=True)
class RecipeWeights:
    """What a recipe's schemes make of the source, by the quick solver."""

    solver: QuickSolver
    recipe: Recipe

    def values(self, item: TensorSpec, rows: Rows | None = None) -> Floats:
        if item.role in ("norm", "bias"):
            return np.asarray(self.solver.source.tensor(item.name), dtype=np.float32)
        return self.solver.quantized(item, self.recipe.scheme_for(item), rows)


@dataclass(frozen=True, slots=True)
class CheckpointWeights:
    """What a finished checkpoint holds: the recipe's own solver, folded norms included."""

    checkpoint: Checkpoint

    def values(self, item: TensorSpec, rows: Rows | None = None) -> Floats:
        tensor = self.checkpoint.tensor(item.name)
        if rows is not None:
            pieces: Any = tensor.dequantize()[rows]
            return np.asarray(pieces, dtype=np.float32)
        values: Floats = tensor.dequantize()
        self.checkpoint.release(item.name)
        return values
