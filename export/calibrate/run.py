"""The calibration pass: every layer sees every window once, in order, and is left behind for good.

What happens at a layer is the caller's: `collect_statistics` only watches the inputs of its linears; quantizing
(`edgeport.export.quantize.calibrated`) watches, solves and lets the next layer see what the quantized layers really give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.gather import Gatherer, InputTap
from edgeport.export.calibrate.groups import InputGroup, input_groups, weight_name
from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.calibrate.state import Arrays, PassState, write_arrays
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.source import SourceModel
from edgeport.progress import Progress, Stage

if TYPE_CHECKING:
    import torch

STATISTICS_NAME = "statistics.safetensors"
_BATCH_TOKENS = 2048
"""Tokens through a layer at a time: activations of a feed-forward network are tens of MB then."""


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer at work: its module with weights in place, and the hidden states [windows, n_ctx, hidden_size] before it."""

    model: LayerwiseModel
    index: int
    module: Any
    hidden: npt.NDArray[np.float32]

    def batches(self) -> list[slice]:
        step = max(_BATCH_TOKENS // self.hidden.shape[1], 1)
        return [slice(start, start + step) for start in range(0, len(self.hidden), step)]

    def run(self, batch: slice) -> torch.Tensor:
        import torch

        return self.model.run(self.index, self.module, torch.from_numpy(np.array(self.hidden[batch])))

    def watch(self, groups: tuple[InputGroup, ...], *, hessian: bool) -> dict[str, InputStatistics]:
        """Statistics of the inputs of `groups` by weight name; the forward pass ends at the last of them."""
        gatherers = {}
        for group in groups:
            linear = self.module.get_submodule(group.modules[0])
            name = weight_name(self.index, group.modules[0])
            gatherers[group.modules[0]] = Gatherer(name, linear.in_features, hessian=hessian)
        with InputTap(self.module, gatherers, last=groups[-1].modules[0]) as tap:
            for batch in self.batches():
                tap.run(lambda batch=batch: self.run(batch))
        found = {}
        for group in groups:
            statistics = gatherers[group.modules[0]].statistics()
            found.update({weight_name(self.index, module): statistics for module in group.modules})
        return found


LayerStep = Callable[[LayerView], Arrays]
"""Works on a layer and may replace its weights; returns what the pass keeps of it."""


def run_layers(
    model: LayerwiseModel, text: CalibrationText, state: PassState, step: LayerStep, stage: Stage
) -> None:
    """Run `step` on each layer that `state` does not have yet; the embedding must be there."""
    shape = (*text.windows.shape, model.source.spec.hidden_size)
    stage.advance(state.layers_done)
    for index in range(state.layers_done, model.layers):
        hidden = state.hidden()
        with model.layer(index) as module:
            view = LayerView(model, index, module, hidden)
            keep = step(view)

            def fill(target: npt.NDArray[np.float32], view: LayerView = view) -> None:
                for batch in view.batches():
                    target[batch] = view.run(batch).numpy()

            state.advance(shape, fill, keep)
        stage.advance(1)


def embed_windows(
    model: LayerwiseModel, text: CalibrationText, state: PassState, keep: Arrays, table: Any = None
) -> None:
    """The first step of a pass: hidden states before layer 0, from the source's embedding or from `table`."""
    from edgeport.export.families.decoder import EMBEDDING

    replaced = None if table is None else {EMBEDDING: table}

    def fill(target: npt.NDArray[np.float32]) -> None:
        for number, window in enumerate(text.windows):
            target[number] = model.embed(window, replaced).numpy()

    state.advance((*text.windows.shape, model.source.spec.hidden_size), fill, keep)


def statistics_arrays(statistics: Mapping[str, InputStatistics]) -> dict[str, npt.NDArray[Any]]:
    """`NAME.second_moment` and `NAME.mean_magnitude`, as they are kept beside a layer's result."""
    arrays = {}
    for name, found in statistics.items():
        arrays[f"{name}.second_moment"] = found.second_moment
        arrays[f"{name}.mean_magnitude"] = found.mean_magnitude
    return arrays


def collect_statistics(
    source: SourceModel, text: CalibrationText, work: Path, *, threads: int, progress: Progress
) -> Path:
    """Watch the float model on `text`; returns `work/statistics.safetensors`. Resumes layer by layer.

    Raises UnsupportedModel when activations are not finite.
    """
    fingerprint = {"source": source.fingerprint(), "text": text.sha256, "threads": threads, "float": True}
    state = PassState(work / "float", fingerprint)
    with progress.stage("calibrate", total=source.spec.layers) as stage:
        model = LayerwiseModel(source, n_ctx=text.windows.shape[1], threads=threads)
        if state.layers_done < 0:
            embed_windows(model, text, state, {})
        groups = input_groups(source.spec)

        def step(view: LayerView) -> Arrays:
            return statistics_arrays(view.watch(groups, hessian=False))

        run_layers(model, text, state, step, stage)
    return merge_statistics(state, work)


def merge_statistics(state: PassState, work: Path) -> Path:
    """All layers' statistics in one file, `work/statistics.safetensors`."""
    results = state.results()
    names = [name for name in results if name.endswith((".second_moment", ".mean_magnitude"))]
    path = work / STATISTICS_NAME
    write_arrays(path, {name: np.asarray(results.tensor(name)) for name in names})
    return path
