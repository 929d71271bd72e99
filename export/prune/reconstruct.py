"""Solve the kept input columns of o_proj and down_proj for what the cut columns contributed.

Least squares on the inputs the layer really gets, with the layers before it already cut and solved: with H = mean of x x^T on
the calibration text, W' = W[:, keep] + W[:, cut] H[cut, keep] (H[keep, keep] + damping I)^-1 minimizes the mean of
|W x - W' x[keep]|^2 + damping |W' - W[:, keep]|^2, the closed form of channel pruning (He et al. 2017, arXiv:1707.06168,
section 3.1). Widths and cost at run time stay as they are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.groups import InputGroup, weight_name
from edgeport.export.calibrate.layerwise import LayerwiseModel, set_weight
from edgeport.export.calibrate.run import LayerView, embed_windows, run_layers
from edgeport.export.calibrate.state import Arrays, PassState
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.prune.kept import Indices, Kept, head_channels
from edgeport.export.safetensors_file import SafetensorsFolder
from edgeport.export.source import SourceModel
from edgeport.progress import Progress

DAMPING_SHARE = 0.01
"""Of the mean square of the kept inputs."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrunkModel:
    """The model with layers and hidden channels cut already, at full width within its layers. kept: indices into the source."""

    model: SourceModel
    kept: Kept
    head_dim: int

    def columns(self, index: int) -> dict[str, Indices]:
        """Kept input channels of the linears of trunk layer `index` whose input is cut, in the order they are computed."""
        layer = self.kept.layers[index]
        found = {}
        if layer in self.kept.query_heads:
            found["self_attn.o_proj"] = head_channels(self.kept.query_heads[layer], self.head_dim)
        if layer in self.kept.ffn:
            found["mlp.down_proj"] = self.kept.ffn[layer]
        return found


def reconstruct(
    trunk: TrunkModel, text: CalibrationText, work: Path, *, threads: int, progress: Progress
) -> SafetensorsFolder:
    """float32 weights [out_features, kept] by their names in the cut model. Resumes layer by layer."""
    fingerprint = {
        "source": trunk.model.fingerprint(),
        "text": text.sha256,
        "threads": threads,
        "columns": {
            f"{index}.{name}": columns.tolist()
            for index in range(trunk.model.spec.layers)
            for name, columns in trunk.columns(index).items()
        },
    }
    state = PassState(work, fingerprint)
    with progress.stage("reconstruct", total=trunk.model.spec.layers) as stage:
        model = LayerwiseModel(trunk.model, n_ctx=text.windows.shape[1], threads=threads)
        if state.layers_done < 0:
            embed_windows(model, text, state, {}, [{}])
        run_layers(model, state, functools.partial(_solve_layer, trunk), stage)
    return state.results()


def _solve_layer(trunk: TrunkModel, view: LayerView) -> Arrays:
    """Each linear is solved on what the cut and solved ones before it in the layer give."""
    solved: dict[str, npt.NDArray[Any]] = {}
    for module, columns in trunk.columns(view.index).items():
        name = weight_name(view.index, module)
        statistics = view.watch((InputGroup((module,)),), hessian=True)[name]
        assert statistics.hessian is not None
        stored = trunk.model.tensor(name)
        weight = solve_columns(stored.astype(np.float32), statistics.hessian, columns)
        # The layers after it see the weight as it will be stored.
        weight = weight.astype(stored.dtype).astype(np.float32)
        masked = np.zeros(stored.shape, dtype=np.float32)
        masked[:, columns] = weight
        set_weight(view.module, f"{module}.weight", masked)
        solved[name] = weight
    return solved


def solve_columns(weight: Floats, hessian: Floats, keep: Indices) -> Floats:
    """weight [out_features, in_features], hessian [in_features, in_features] -> [out_features, kept]."""
    cut = np.setdiff1d(np.arange(weight.shape[1]), keep)
    kept_product = hessian[np.ix_(keep, keep)].astype(np.float64)
    damping = DAMPING_SHARE * np.mean(np.diag(kept_product)) or 1.0
    kept_product[np.diag_indices_from(kept_product)] += damping
    lost = hessian[np.ix_(keep, cut)].astype(np.float64) @ weight[:, cut].T.astype(np.float64)
    change = np.linalg.solve(kept_product, lost).T  # [out_features, kept]
    solved: Floats = (weight[:, keep] + change).astype(np.float32)
    return solved
