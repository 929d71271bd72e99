"""The calibration pass: every layer sees every window once, in order, and is left behind for good.

What happens at a layer is the caller's: `collect_statistics` only watches the inputs of its linears; quantizing
(`edgeport.export.quantize.calibrated`) watches, solves and lets the next layer see what the quantized layers really give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.gather import Gatherer, InputTap
from edgeport.export.calibrate.groups import InputGroup, input_groups, weight_name
from edgeport.export.calibrate.layerwise import LayerwiseModel, Weights
from edgeport.export.calibrate.state import Arrays, PassState, write_arrays
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.source import SourceModel
from edgeport.progress import Progress, Stage

if TYPE_CHECKING:
    import torch

STATISTICS_NAME = "statistics.safetensors"
TEXT_SHAPE = "calibration.shape"
_BATCH_TOKENS = 2048
"""Tokens through a layer at a time: activations of a feed-forward network are tens of MB then."""


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer at work: its module with weights in place, and the hidden states [windows, n_ctx, hidden_size] before it.

    float_view: the same layer with the source's weights, on hidden states that nothing quantized has touched, where the
    pass carries those along.
    """

    model: LayerwiseModel
    index: int
    module: Any
    hidden: npt.NDArray[np.float32]
    float_view: LayerView | None = None

    def batches(self) -> list[slice]:
        step = max(_BATCH_TOKENS // self.hidden.shape[1], 1)
        return [slice(start, start + step) for start in range(0, len(self.hidden), step)]

    def run(self, batch: slice) -> torch.Tensor:
        import torch

        return self.model.run(self.index, self.module, torch.from_numpy(np.array(self.hidden[batch])))

    def fill(self, target: npt.NDArray[np.float32]) -> None:
        """Hidden states after the layer."""
        for batch in self.batches():
            target[batch] = self.run(batch).numpy()

    def watch(self, groups: tuple[InputGroup, ...], *, hessian: bool) -> dict[str, InputStatistics]:
        """Statistics of the inputs of `groups` by weight name; the forward pass ends at the last of them."""
        first = [group.modules[0] for group in groups]
        cross = hessian and self.float_view is not None
        gatherers = {}
        for module in first:
            in_features = self.module.get_submodule(module).in_features
            name = weight_name(self.index, module)
            gatherers[module] = Gatherer(name, in_features, hessian=hessian, cross=cross)
        for batch in self.batches():
            seen = self._inputs(first, batch)
            undisturbed = self.float_view._inputs(first, batch) if cross and self.float_view else {}
            for module in first:
                gatherers[module].add(seen[module], undisturbed.get(module))
        found = {}
        for group in groups:
            statistics = gatherers.pop(group.modules[0]).statistics()
            found.update({weight_name(self.index, module): statistics for module in group.modules})
        return found

    def _inputs(self, modules: list[str], batch: slice) -> dict[str, torch.Tensor]:
        return InputTap(self.module, modules).inputs(lambda: self.run(batch))


LayerStep = Callable[[LayerView], Arrays]
"""Works on a layer and may replace its weights; returns what the pass keeps of it."""


def run_layers(model: LayerwiseModel, state: PassState, step: LayerStep, stage: Stage) -> None:
    """Run `step` on each layer that `state` does not have yet; the embedding must be there.

    Hidden states are [streams, windows, n_ctx, hidden_size]: the first stream goes through what `step` leaves of a layer,
    a second one, where `embed_windows` made it, through the source's weights.
    """
    stage.advance(state.layers_done)
    for index in range(state.layers_done, model.layers):
        hidden = state.hidden()
        with ExitStack() as stack:
            float_view = None
            if len(hidden) > 1:
                float_view = LayerView(model, index, stack.enter_context(model.layer(index)), hidden[1])
            view = LayerView(model, index, stack.enter_context(model.layer(index)), hidden[0], float_view)
            keep = step(view)
            state.advance(hidden.shape, functools.partial(_fill, view), keep)
        stage.advance(1)


def _fill(view: LayerView, target: npt.NDArray[np.float32]) -> None:
    view.fill(target[0])
    if view.float_view is not None:
        view.float_view.fill(target[1])


def embed_windows(
    model: LayerwiseModel, text: CalibrationText, state: PassState, keep: Arrays, tables: Sequence[Weights]
) -> None:
    """The first step of a pass: hidden states before layer 0, one stream for each embedding in `tables`."""

    def fill(target: npt.NDArray[np.float32]) -> None:
        for stream, table in zip(target, tables, strict=True):
            for number, window in enumerate(text.windows):
                stream[number] = model.embed(window, table).numpy()

    state.advance((len(tables), *text.windows.shape, model.source.spec.hidden_size), fill, keep)


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
            embed_windows(model, text, state, {}, [{}])
        groups = input_groups(source.spec)

        def step(view: LayerView) -> Arrays:
            return statistics_arrays(view.watch(groups, hessian=False))

        run_layers(model, state, step, stage)
    return merge_statistics(state, text, work)


def merge_statistics(state: PassState, text: CalibrationText, work: Path) -> Path:
    """All layers' statistics in one file, `work/statistics.safetensors`, with windows and n_ctx as TEXT_SHAPE."""
    results = state.results()
    names = [name for name in results if name.endswith((".second_moment", ".mean_magnitude"))]
    path = work / STATISTICS_NAME
    arrays = {name: np.asarray(results.tensor(name)) for name in names}
    write_arrays(path, {TEXT_SHAPE: np.array(text.windows.shape, dtype=np.float32), **arrays})
    return path
