"""End-to-end KL divergence of whole recipes or checkpoints to the source, in float32, several in one pass over the layers.

This is the float forward pass on dequantized weights: what quantization of the weights costs, before any engine's kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.checkpoint import Checkpoint
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, TensorSpec
from edgeport.export.mix.divergence import Ending, head_name, kl_of_ending
from edgeport.export.mix.sensitivity import run_windows
from edgeport.export.mix.weights import CheckpointWeights, QuickSolver, RecipeWeights, WeightsOf
from edgeport.export.mix.windows import Windows
from edgeport.export.recipe import Recipe
from edgeport.export.source import SourceModel
from edgeport.progress import NO_PROGRESS, Progress

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Divergence:
    """mean_kl: nats per token; error: its standard error over `tokens`; p99_kl: what 99 % of tokens stay below."""

    mean_kl: float
    error: float
    p99_kl: float
    tokens: int


def evaluate_recipe_kl(
    source: SourceModel,
    recipe: Recipe,
    windows: Windows,
    *,
    weights: Path | Checkpoint | None = None,
    threads: int,
    progress: Progress = NO_PROGRESS,
) -> Divergence:
    """KL(source || recipe) on windows [windows, n_ctx] of token ids, every token scored.

    weights: a finished checkpoint to take the values from, or the calibration statistics that weight the quick solver's
    search (a path), or None for plain rtn. Raises MissingExtra without torch.
    """
    contender: WeightsOf = (
        CheckpointWeights(weights)
        if isinstance(weights, Checkpoint)
        else RecipeWeights(QuickSolver(source, weights), recipe)
    )
    found = compare_weights(source, {"": contender}, windows, threads=threads, progress=progress)
    return found[""]


def compare_weights(
    source: SourceModel,
    contenders: Mapping[str, WeightsOf],
    windows: Windows,
    *,
    threads: int,
    progress: Progress = NO_PROGRESS,
) -> dict[str, Divergence]:
    """KL of each contender to the source on the same windows. Memory holds one layer, and a stream per contender."""
    model = LayerwiseModel(source, n_ctx=windows.shape[1], threads=threads)
    items = {item.name: item for item in source.spec.tensors()}
    base = model.embed(windows).numpy()
    streams = {name: _embed(items[EMBEDDING], weights, windows) for name, weights in contenders.items()}
    with progress.stage("compare mixes", total=source.spec.layers + len(contenders)) as stage:
        for layer in range(source.spec.layers):
            base = _through(model, layer, base, None)
            for name, weights in contenders.items():
                replaced = {item.name: weights.values(item) for item in source.spec.layer_tensors(layer)}
                streams[name] = _through(model, layer, streams[name], replaced)
            stage.advance()
        norm, head = items[FINAL_NORM], items[head_name(model)]
        found = {}
        for name, weights in contenders.items():
            ending = Ending(streams[name], weights.values(norm), weights.values(head))
            found[name] = _summary(kl_of_ending(model, base, ending))
            stage.advance()
    return found


def _embed(item: TensorSpec, weights: WeightsOf, windows: Windows) -> Floats:
    used, where = np.unique(windows, return_inverse=True)
    rows = weights.values(item, used)
    return np.asarray(rows[where.reshape(-1)].reshape(*windows.shape, -1), dtype=np.float32)


def _through(
    model: LayerwiseModel, layer: int, hidden: Floats, replaced: Mapping[str, Floats] | None
) -> Floats:
    result = np.empty_like(hidden)
    with model.layer(layer, replaced) as module:
        run_windows(model, (layer, module), hidden, result)
    return result


def _summary(kl: npt.NDArray[np.float64]) -> Divergence:
    error = float(kl.std() / np.sqrt(kl.size))
    return Divergence(float(kl.mean()), error, float(np.percentile(kl, 99)), kl.size)
