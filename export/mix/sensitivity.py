"""How much each group of tensors hurts: KL divergence of the final logits when that group alone is quantized.

One pass through the layers carries a stream of hidden states for the source and one for every (group, scheme) whose layer
has been passed. A layer's weights are read once and every stream runs through them; a new stream starts where its group is, from
the source's stream through the layer with that group quantized. At the end all streams go through final norm and head, and
the KL of each to the source's is averaged over tokens. No gradients, no proxy: the number is what the group alone costs.

Memory holds one layer and one stream; the streams lie in a memory map. A killed pass goes on at the layer it was in and gives
bit for bit the same numbers, because what it goes on from are the bytes that the first run wrote (`calibrate.state`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.layerwise import LayerwiseModel, set_weight
from edgeport.export.calibrate.state import PassState
from edgeport.export.families.decoder import EMBEDDING, TensorSpec
from edgeport.export.mix.divergence import Ending, head_name, kl_of_ending, kl_of_streams
from edgeport.export.mix.groups import BEFORE_LAYERS, TensorGroup
from edgeport.export.mix.weights import QuickSolver
from edgeport.export.mix.windows import Windows, windows_sha256
from edgeport.manifest import from_json, to_json
from edgeport.progress import Progress, Stage
from edgeport.scheme import TensorScheme

SENSITIVITY_NAME = "sensitivity.json"
BATCH_TOKENS = 2048
"""Tokens through a layer at a time."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OptionLoss:
    """kl: mean nats per token of this option alone; kl_error its standard error. estimated: not run, see `estimate`."""

    scheme: str
    kl: float
    kl_error: float
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class GroupLoss:
    name: str
    options: tuple[OptionLoss, ...]

    def kl(self, scheme: TensorScheme) -> float:
        return next(option.kl for option in self.options if option.scheme == str(scheme))


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What `sensitivity.json` holds: valid for one source, text, set of groups and solver, whatever the budget."""

    fingerprint: dict[str, Any]
    tokens: int
    groups: tuple[GroupLoss, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """One stream: a group in one scheme."""

    group: TensorGroup
    scheme: TensorScheme


@dataclass(frozen=True)
class SensitivityRun:
    """windows: token ids [windows, n_ctx]. only_lowest: measure each group's smallest scheme and estimate the others.

    work: a folder that outlives a kill; it ends with `sensitivity.json` and without the streams.
    """

    solver: QuickSolver
    groups: Sequence[TensorGroup]
    windows: Windows
    work: Path
    threads: int
    only_lowest: bool = False

    def measure(self, progress: Progress) -> Sensitivity:
        """Run, go on, or read what was measured before. Raises UnsupportedModel when the divergence is not finite."""
        found = self.saved()
        if found is not None:
            return found
        fingerprint = self.fingerprint()
        state = PassState(self.work / "streams", fingerprint)
        spec = self.solver.source.spec
        with progress.stage("sensitivity", total=self._stream_layers()) as stage:
            stage.advance(sum(len(self._started(layer)) + 1 for layer in range(max(state.layers_done, 0))))
            if state.layers_done < 0:
                state.advance(self._shape(BEFORE_LAYERS), self._embed, {})
            for layer in range(state.layers_done, spec.layers):
                self._run_layer(state, layer, stage)
        with progress.stage("sensitivity: head", total=len(self.probes())) as stage:
            losses = self._measure_streams(state.hidden(), stage)
        result = Sensitivity(fingerprint, self.windows.size, self._collect(losses))
        write_sensitivity(result, self.work / SENSITIVITY_NAME)
        shutil.rmtree(state.directory)
        return result

    def saved(self) -> Sensitivity | None:
        """What an earlier run left in `work`, if it measured the same."""
        found = read_sensitivity(self.work / SENSITIVITY_NAME)
        return found if found is not None and found.fingerprint == self.fingerprint() else None

    def fingerprint(self) -> dict[str, Any]:
        """Everything the numbers depend on."""
        import torch

        return {
            "source": self.solver.source.fingerprint(),
            "windows": windows_sha256(self.windows),
            "solver": self.solver.digest(),
            "groups": {
                group.name: [[item.name for item in group.tensors], list(map(str, group.schemes))]
                for group in self.groups
            },
            "only_lowest": self.only_lowest,
            # sums are split among threads, and another split rounds differently
            "threads": self.threads,
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def probes(self) -> list[Probe]:
        """Streams in the order in which they start. A group with one option has nothing to measure."""
        return [
            Probe(group, scheme)
            for group in sorted(self.groups, key=lambda group: group.layer)
            if len(group.schemes) > 1
            for scheme in group.schemes[: 1 if self.only_lowest else None]
        ]

    def _started(self, layer: int) -> list[Probe]:
        """Probes whose stream has parted from the source's once `layer` is done."""
        return [probe for probe in self.probes() if probe.group.layer <= layer]

    def _stream_layers(self) -> int:
        return sum(len(self._started(layer)) + 1 for layer in range(self.solver.source.spec.layers))

    def _shape(self, layer: int) -> tuple[int, ...]:
        hidden_size = self.solver.source.spec.hidden_size
        return (1 + len(self._started(layer)), *self.windows.shape, hidden_size)

    @cached_property
    def _model(self) -> LayerwiseModel:
        """Made at the first use: building it takes seconds, and a finished pass needs none."""
        return LayerwiseModel(self.solver.source, n_ctx=self.windows.shape[1], threads=self.threads)

    def _embed(self, target: Floats) -> None:
        target[0] = self._model.embed(self.windows).numpy()
        used, where = np.unique(self.windows, return_inverse=True)
        for number, probe in enumerate(self._started(BEFORE_LAYERS), start=1):
            rows = self.solver.quantized(probe.group.tensors[0], probe.scheme, used)
            target[number] = rows[where.reshape(-1)].reshape(target.shape[1:])

    def _run_layer(self, state: PassState, layer: int, stage: Stage) -> None:
        model, hidden = self._model, state.hidden()

        def fill(target: Floats) -> None:
            with model.layer(layer) as module:
                for number in range(len(hidden)):
                    run_windows(model, (layer, module), hidden[number], target[number])
                    stage.advance()
                starting = self._started(layer)[len(hidden) - 1 :]
                for number, probe in enumerate(starting, start=len(hidden)):
                    with_source = {item.name: self._source_values(item) for item in probe.group.tensors}
                    self._set(module, layer, self._probe_values(probe))
                    run_windows(model, (layer, module), hidden[0], target[number])
                    self._set(module, layer, with_source)
                    stage.advance()

        state.advance(self._shape(layer), fill, {})

    def _probe_values(self, probe: Probe) -> dict[str, Floats]:
        return {item.name: self.solver.quantized(item, probe.scheme) for item in probe.group.tensors}

    def _source_values(self, item: TensorSpec) -> Floats:
        return np.asarray(self.solver.source.tensor(item.name), dtype=np.float32)

    def _set(self, module: Any, layer: int, values: Mapping[str, Floats]) -> None:
        for name, array in values.items():
            set_weight(module, name.removeprefix(f"model.layers.{layer}."), array)

    def _measure_streams(self, hidden: Floats, stage: Stage) -> list[tuple[float, float]]:
        """(mean KL, its standard error) of each probe."""
        head, probes = head_name(self._model), self.probes()
        # A quantized head, or a quantized embedding that is the head too, changes what comes after the layers.
        own = {at for at, probe in enumerate(probes) if head in (item.name for item in probe.group.tensors)}
        shared = [at for at in range(len(probes)) if at not in own]
        streams = [hidden[at + 1] for at in shared]
        found = dict(zip(shared, kl_of_streams(self._model, hidden[0], streams, stage.advance), strict=True))
        for at in own:
            stream = hidden[at + 1] if at + 1 < len(hidden) else hidden[0]
            ending = Ending(stream, head=self._probe_values(probes[at])[head])
            found[at] = kl_of_ending(self._model, hidden[0], ending)
            stage.advance()
        for at, kl in found.items():
            if not np.isfinite(kl).all():
                raise UnsupportedModel(
                    f"the output is NaN or infinite with {probes[at].group.name} in {probes[at].scheme}",
                    hint="the source model overflows in float32: its weights are damaged",
                )
        kls = [found[at] for at in range(len(probes))]
        return [(float(kl.mean()), float(kl.std() / np.sqrt(kl.size))) for kl in kls]

    def _collect(self, losses: Sequence[tuple[float, float]]) -> tuple[GroupLoss, ...]:
        found = {
            (probe.group.name, str(probe.scheme)): OptionLoss(str(probe.scheme), *loss)
            for probe, loss in zip(self.probes(), losses, strict=True)
        }
        return tuple(
            GroupLoss(
                group.name,
                self._options(
                    group, {scheme: loss for (name, scheme), loss in found.items() if name == group.name}
                ),
            )
            for group in self.groups
        )

    def _options(self, group: TensorGroup, found: Mapping[str, OptionLoss]) -> tuple[OptionLoss, ...]:
        if not found:
            return tuple(OptionLoss(str(scheme), 0.0, 0.0, estimated=True) for scheme in group.schemes)
        lowest = found[str(group.schemes[0])]
        missing = [scheme for scheme in group.schemes if str(scheme) not in found]
        base_error = self._squared_error(group, group.schemes[0]) if missing else 1.0
        estimates = {str(scheme): self._estimate(group, scheme, lowest, base_error) for scheme in missing}
        return tuple({**found, **estimates}[str(scheme)] for scheme in group.schemes)

    def _estimate(
        self, group: TensorGroup, scheme: TensorScheme, lowest: OptionLoss, lowest_error: float
    ) -> OptionLoss:
        """KL is quadratic in a small change of weights, so it falls as the squared error of the weights does."""
        ratio = self._squared_error(group, scheme) / lowest_error if lowest_error else 0.0
        return OptionLoss(str(scheme), lowest.kl * ratio, lowest.kl_error * ratio, estimated=True)

    def _squared_error(self, group: TensorGroup, scheme: TensorScheme) -> float:
        total = 0.0
        for item in group.tensors:
            rows = None if item.name != EMBEDDING else np.unique(self.windows)
            source = self.solver.source.tensor(item.name)
            values = np.asarray(source if rows is None else source[rows], dtype=np.float32)
            change = (self.solver.quantized(item, scheme, rows) - values).reshape(-1)
            total += float(np.dot(change, change))
        return total


def run_windows(model: LayerwiseModel, at: tuple[int, Any], hidden: Floats, target: Floats) -> None:
    """One stream [windows, n_ctx, hidden_size] through layer `at` = (index, module)."""
    import torch

    index, module = at
    step = max(BATCH_TOKENS // hidden.shape[1], 1)
    for start in range(0, len(hidden), step):
        batch = torch.from_numpy(np.array(hidden[start : start + step]))
        target[start : start + step] = model.run(index, module, batch).numpy()


def read_sensitivity(path: Path) -> Sensitivity | None:
    """None when there is none, or one that cannot be read."""
    try:
        found: Sensitivity = from_json(Sensitivity, json.loads(path.read_text(encoding="utf-8")))
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_sensitivity(sensitivity: Sensitivity, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(to_json(sensitivity), indent=1) + "\n", encoding="utf-8")
    part.replace(path)
