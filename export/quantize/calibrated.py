"""Quantize decoder layer by decoder layer, each on what the already quantized layers before it really give.

Inside a layer too: q, k and v are solved first, then o_proj sees what they leave, then gate and up, then down. A forward
pass that only wants the input of o_proj ends there, so four passes that end early and a whole one cost little more than two.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.gather import Gatherer
from edgeport.export.calibrate.groups import input_groups, weight_name
from edgeport.export.calibrate.layerwise import LayerwiseModel, set_weight
from edgeport.export.calibrate.run import (
    LayerView,
    embed_windows,
    merge_statistics,
    run_layers,
    statistics_arrays,
)
from edgeport.export.calibrate.state import Arrays, PassState
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.checkpoint import PackedTensor
from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD, TensorSpec
from edgeport.export.quantize.solver import RowSolver
from edgeport.export.quantize.solvers import SOLVERS, SolverEntry, get_solver
from edgeport.export.quantize.tensor import QuantizedTensor, quantize_tensor
from edgeport.export.recipe import Recipe
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source import SourceModel
from edgeport.progress import Progress, Stage

Floats = npt.NDArray[np.float32]

TABLE_SHARE = 0.1
"""Weight of an embedding's use as a table beside its use as the head, as a share of the head's mean second moment. On the
reference model 0.1 was best of 0, 0.1, 0.5 and 2: KL divergence 0.0093 instead of 0.0146 for an INT4 embedding."""


@dataclass(frozen=True, slots=True)
class CalibratedQuantizer:
    """One pass over a model with one recipe; `work` keeps what is done over a kill."""

    source: SourceModel
    recipe: Recipe
    text: CalibrationText
    work: Path
    threads: int

    def run(self, progress: Progress) -> SafetensorsFolder:
        """Solve everything; returns the packed tensors as `packed_arrays` names them.

        Raises UnsupportedModel for weights or activations that are not finite and for Hessians that cannot be factored.
        """
        state = PassState(self.work / "solve", self._fingerprint())
        spec = self.source.spec
        with progress.stage(f"quantize ({self.recipe.solver})", total=spec.layers + 1) as stage:
            if state.layers_done <= spec.layers:
                model = LayerwiseModel(self.source, n_ctx=self.text.windows.shape[1], threads=self.threads)
                if state.layers_done < 0:
                    self._embed(model, state)
                run_layers(model, state, self._solve_layer, stage)
                if state.layers_done == spec.layers:
                    self._finish(model, state)
        merge_statistics(state, self.text, self.work)
        return state.results()

    @property
    def _entry(self) -> SolverEntry:
        return SOLVERS[self.recipe.solver]

    def _fingerprint(self) -> dict[str, Any]:
        import torch

        return {
            "source": self.source.fingerprint(),
            "recipe": self.recipe.to_document(),
            "text": self.text.sha256,
            # sums are split among threads, and another split rounds differently
            "threads": self.threads,
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def _embed(self, model: LayerwiseModel, state: PassState) -> None:
        item = next(item for item in self.source.spec.tensors() if item.name == EMBEDDING)
        solve = self._tied_head_solver(model, item)
        result = self._quantize(item, self.source.tensor(EMBEDDING), solve)
        table = _dequantized(item, self.recipe, result)
        tables = [{EMBEDDING: table}, {}] if self._entry.corrects else [{EMBEDDING: table}]
        embed_windows(model, self.text, state, packed_arrays(item.name, result), tables)
        shutil.rmtree(self.work / "head", ignore_errors=True)

    def _tied_head_solver(self, model: LayerwiseModel, item: TensorSpec) -> RowSolver | None:
        """For an embedding that is the head too and gets few bits: what the float model feeds the head, found by a pass of
        its own, because the embedding is quantized before anything else. As a table its errors count alike in every
        direction; a share of the identity stands for that."""
        scheme = self.recipe.scheme_for(item)
        needed = self._entry.needs == "hessian" and self.source.spec.tied_embeddings
        if not needed or not scheme.is_quantized or scheme.bits >= 8:
            return None
        state = PassState(self.work / "head", self._fingerprint())
        if state.layers_done < 0:
            embed_windows(model, self.text, state, {}, [{}])
        run_layers(model, state, lambda view: {}, Stage("", None))
        statistics = self._head_statistics(model, state)
        assert statistics.hessian is not None
        table_share = TABLE_SHARE * float(statistics.second_moment.mean())
        statistics.hessian.reshape(-1)[:: len(statistics.hessian) + 1] += table_share
        return get_solver(self.recipe.solver)(statistics)

    def _head_statistics(self, model: LayerwiseModel, state: PassState) -> InputStatistics:
        """Statistics of what the head gets to see of the hidden states after the last layer."""
        import torch

        gatherer = Gatherer(HEAD, self.source.spec.hidden_size, hessian=self._entry.needs == "hessian")
        for window in state.hidden()[0]:
            gatherer.add(model.final_norm(torch.from_numpy(np.array(window))))
        return gatherer.statistics()

    def _solve_layer(self, view: LayerView) -> Arrays:
        """Quantize the linears of a layer in the order of computation, leaving the quantized values in the module."""
        spec = self.source.spec
        items = {item.name: item for item in spec.layer_tensors(view.index)}
        hessian = self._entry.needs == "hessian"
        keep: dict[str, npt.NDArray[Any]] = {}
        if self._entry.folds:
            self._fold(view)
        for name, item in items.items():
            if item.role != "linear":
                values = _parameter(view, name)
                keep.update(packed_arrays(name, self._quantize(item, values, None)))
        for group in input_groups(spec):
            statistics = view.watch((group,), hessian=hessian)
            keep.update(statistics_arrays(statistics))
            solve = get_solver(self.recipe.solver)(statistics[weight_name(view.index, group.modules[0])])
            for module in group.modules:
                item = items[weight_name(view.index, module)]
                result = self._quantize(item, _parameter(view, item.name), solve)
                set_weight(view.module, f"{module}.weight", _dequantized(item, self.recipe, result))
                keep.update(packed_arrays(item.name, result))
        return keep

    def _fold(self, view: LayerView) -> None:
        """AWQ: move scales of channels into the preceding operations, on the statistics of the float layer."""
        from edgeport.export.quantize import awq

        spec = self.source.spec
        statistics = view.watch(input_groups(spec), hessian=True)
        weights = {item.name: _parameter(view, item.name) for item in spec.layer_tensors(view.index)}
        schemes = {item.name: self.recipe.scheme_for(item) for item in spec.layer_tensors(view.index)}
        folded = awq.fold(spec, view.index, weights, statistics, schemes.__getitem__)
        prefix = f"model.layers.{view.index}."
        for name, values in folded.weights.items():
            set_weight(view.module, name.removeprefix(prefix), values)

    def _finish(self, model: LayerwiseModel, state: PassState) -> None:
        """Final norm and head. A tied head is the embedding, which was quantized before anything else."""
        spec = self.source.spec
        items = {item.name: item for item in spec.tensors() if item.name in (FINAL_NORM, HEAD)}
        keep = packed_arrays(
            FINAL_NORM, self._quantize(items[FINAL_NORM], self.source.tensor(FINAL_NORM), None)
        )
        if not spec.tied_embeddings:
            statistics = self._head_statistics(model, state)
            keep.update(statistics_arrays({HEAD: statistics}))
            solve = get_solver(self.recipe.solver)(statistics)
            keep.update(packed_arrays(HEAD, self._quantize(items[HEAD], self.source.tensor(HEAD), solve)))
        state.finish(keep)

    def _quantize(
        self, item: TensorSpec, values: npt.NDArray[Any], solve: RowSolver | None
    ) -> QuantizedTensor:
        solve = solve or get_solver(self.recipe.solver)(None)
        return quantize_tensor(values, self.recipe.scheme_for(item), name=item.name, solve=solve)


def packed_arrays(name: str, result: QuantizedTensor) -> dict[str, npt.NDArray[Any]]:
    """As the checkpoint names them: NAME.codes and NAME.scales, or NAME of a float tensor."""
    if result.scales is None:
        return {name: result.payload}
    return {f"{name}.codes": result.payload, f"{name}.scales": result.scales}


def _parameter(view: LayerView, name: str) -> Floats:
    values: Floats = (
        view.module.get_parameter(name.removeprefix(f"model.layers.{view.index}.")).detach().numpy()
    )
    return values


def _dequantized(item: TensorSpec, recipe: Recipe, result: QuantizedTensor) -> Floats:
    return PackedTensor(
        item.name, item.shape, recipe.scheme_for(item), result.payload, result.scales
    ).dequantize()
