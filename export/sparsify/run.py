"""Sparsify decoder layer by decoder layer, each on what the already sparse layers before it really give.

Inside a layer too: q, k and v first, then o_proj on what they leave, then gate and up, then down, as quantization does. A
round of a gradual run is a whole pass over what the round before left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel, UsageError
from edgeport.export.calibrate.groups import input_groups, weight_name
from edgeport.export.calibrate.layerwise import LayerwiseModel, set_weight
from edgeport.export.calibrate.run import LayerView, embed_windows, run_layers
from edgeport.export.calibrate.state import Arrays, PassState
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.recover.folder import write_folder
from edgeport.export.safetensors_file import DTYPES
from edgeport.export.source import SourceModel, open_source
from edgeport.export.sparsify.folder import whole_folder, write_provenance
from edgeport.export.sparsify.method import Target
from edgeport.export.sparsify.methods import METHODS, get_method
from edgeport.export.sparsify.pattern import PATTERNS, Floats
from edgeport.export.sparsify.plan import SparsifyPlan
from edgeport.export.sparsify.report import SparsifyReport, count_zeros
from edgeport.progress import Progress

STAGE_NAME = "sparsify"
Values = Callable[[str], npt.NDArray[Any]]


def sparsify(
    plan: SparsifyPlan,
    text: CalibrationText | None,
    out: Path,
    *,
    work: Path,
    threads: int,
    progress: Progress,
) -> SparsifyReport:
    """Write a stock Hugging Face folder `out` with zeros; `work` survives a kill, and the same call then goes on.

    text: None for a method that needs none. Raises UnsupportedModel for weights or activations that are not finite and for
    Hessians that cannot be factored.
    """
    if plan.needs_text and text is None:
        raise UsageError(
            f"method {plan.settings.method} needs calibration text", hint="--method magnitude needs none"
        )
    work.mkdir(parents=True, exist_ok=True)
    source, last = plan.source, len(plan.schedule) - 1
    for number, sparsity in enumerate(plan.schedule):
        target = Target(sparsity, PATTERNS[plan.settings.pattern], plan.settings.scope)
        title = STAGE_NAME if last == 0 else f"{STAGE_NAME}, round {number + 1} of {last + 1}"
        one = _Round(source, plan.settings.method, target, text, title)
        folder = work / f"round-{number + 1}"
        values = one.run(folder / "pass", threads, progress)
        if number == last:
            break
        # Written again on the way back to where a kill came: the bytes are the same, and so is the next round's fingerprint.
        with whole_folder(folder / "model") as part:
            write_folder(source, part, values)
        source = open_source(str(folder / "model"))
    return _finish(plan, text, out, values)


def _finish(plan: SparsifyPlan, text: CalibrationText | None, out: Path, values: Values) -> SparsifyReport:
    with whole_folder(out) as part:
        write_folder(plan.source, part, values)
        report = SparsifyReport(
            plan.settings,
            count_zeros(open_source(str(part))),
            plan.source.spec.parameters(),
            plan.schedule,
            text.origin if text is not None and plan.needs_text else None,
        )
        write_provenance(plan.source, part, STAGE_NAME, plan.settings.to_document(), report.to_document())
    return report


@dataclass(frozen=True, slots=True)
class _Round:
    """One pass over a model with one target; stored weights are in the source's dtype, and later layers see them so."""

    source: SourceModel
    method: str
    target: Target
    text: CalibrationText | None
    title: str

    def run(self, work: Path, threads: int, progress: Progress) -> Values:
        """Every tensor of the model after the pass, by name."""
        if METHODS[self.method].needs == "nothing" or self.text is None:
            return self._without_text
        state = PassState(work, self._fingerprint(threads))
        layers = self.source.spec.layers
        with progress.stage(self.title, total=layers) as stage:
            if state.layers_done <= layers:
                model = LayerwiseModel(self.source, n_ctx=self.text.windows.shape[1], threads=threads)
                if state.layers_done < 0:
                    embed_windows(model, self.text, state, {}, [{}])
                run_layers(model, state, self._layer, stage)
                state.finish({})
        results = state.results()
        return lambda name: results.tensor(name) if name in results else self.source.tensor(name)

    def _fingerprint(self, threads: int) -> dict[str, Any]:
        import torch

        assert self.text is not None
        return {
            "source": self.source.fingerprint(),
            "method": self.method,
            "target": [self.target.sparsity, self.target.pattern.name, self.target.scope],
            "text": self.text.sha256,
            # sums are split among threads, and another split rounds differently
            "threads": threads,
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def _without_text(self, name: str) -> npt.NDArray[Any]:
        stored = self.source.tensor(name)
        if name not in {item.name for item in self.source.spec.tensors() if item.role == "linear"}:
            return stored
        return get_method(self.method)(None)(_finite(name, stored.astype(np.float32)), self.target)

    def _layer(self, view: LayerView) -> Arrays:
        """Sparsify the linears of a layer in the order of computation, leaving what is stored in the module."""
        needs = METHODS[self.method].needs
        keep: dict[str, npt.NDArray[Any]] = {}
        for group in input_groups(self.source.spec):
            statistics = view.watch((group,), hessian=needs == "hessian")
            solve = get_method(self.method)(statistics[weight_name(view.index, group.modules[0])])
            for module in group.modules:
                name = weight_name(view.index, module)
                parameter = view.module.get_parameter(f"{module}.weight").detach().numpy()
                sparse = solve(_finite(name, parameter), self.target)
                stored = sparse.astype(DTYPES[self.source.weights.entry(name).dtype])
                set_weight(view.module, f"{module}.weight", stored.astype(np.float32))
                keep[name] = stored
        return keep


def _finite(name: str, values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise UnsupportedModel(
            f"{name} holds NaN or infinite values", hint="the source model's weights are damaged"
        )
    return values
