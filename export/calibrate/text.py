"""Calibration text as windows of tokens: what every method sees of the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """windows: token ids [windows, n_ctx]; origin: where they came from, for the manifest; sha256: of the token ids."""

    windows: npt.NDArray[np.int64]
    origin: str
    sha256: str
