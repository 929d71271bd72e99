"""What a pruning method does: say what becomes of config.json, then choose what stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.prune.kept import Indices, Kept
from edgeport.export.prune.settings import Amount, PruneSettings
from edgeport.export.safetensors_file import SafetensorsFile
from edgeport.export.source import SourceModel
from edgeport.progress import Progress

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """config: keys of config.json that get new values; notes: what the user should know, such as rounding."""

    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scoring:
    """What a method may look at. spec: of the cut model. snap: what widths are multiples of. statistics: of every linear's
    input, where a score wants them: `NAME.second_moment` and `NAME.mean_magnitude`, NAME the weight's."""

    source: SourceModel
    spec: DecoderSpec
    settings: PruneSettings
    snap: int
    text: CalibrationText
    work: Path
    threads: int
    progress: Progress
    statistics: SafetensorsFile | None

    def mean_magnitude(self, name: str) -> Scores:
        return self._statistic(f"{name}.mean_magnitude")

    def second_moment(self, name: str) -> Scores:
        return self._statistic(f"{name}.second_moment")

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        values = self.source.tensor(name).astype(np.float32)
        self.source.weights.release(name)
        return values

    def random(self, method: int, layer: int, count: int) -> Scores:
        """The same for the same seed, whatever else is cut."""
        return np.random.default_rng((self.settings.seed, method, layer)).random(count)

    def _statistic(self, name: str) -> Scores:
        assert self.statistics is not None, "scores by activation come after the calibration pass"
        return self.statistics.tensor(name).astype(np.float64)


class Method(Protocol):
    def change(self, spec: DecoderSpec, wanted: Amount, snap: int) -> Change:
        """spec: what the methods before this one have left. Raises UsageError for what it cannot be cut to."""
        ...

    def keep(self, scoring: Scoring, kept: Kept) -> Kept:
        """`kept` with this method's choice; ties go to the lower index."""
        ...


def resolve(name: str, wanted: Amount, size: int) -> float:
    """How many of `size` are wanted, before rounding. Raises UsageError for more than there are."""
    if isinstance(wanted, float):
        return wanted * size
    if not 1 <= wanted <= size:
        raise UsageError(
            f"--{name} {wanted}: the model has {size}",
            hint=f"give 1 to {size}, or a share with a point: 0.75",
        )
    return wanted


def highest(scores: Scores, count: int) -> Indices:
    """Indices of the `count` highest scores, ascending; of equal ones the first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return np.sort(order).astype(np.int64)
