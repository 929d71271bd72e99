"""Cut calibration text into short windows: some to measure sensitivity on, others to verify the mix on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.errors import UsageError
from edgeport.export.calibrate.text import CalibrationText

SHORTEST_WINDOW = 32
Windows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SplitText:
    """search, check: token ids [windows, n_ctx], no token in both."""

    search: Windows
    check: Windows

    @property
    def n_ctx(self) -> int:
        return int(self.search.shape[1])


def split_windows(
    text: CalibrationText, *, search: int, check: int, n_ctx: int, vocab_size: int
) -> SplitText:
    """At most `search` and `check` windows of `n_ctx` tokens, spread evenly over the text; fewer or shorter where it lacks.

    Raises UsageError for a text of less than two windows of 32 tokens, and for tokens out of range.
    """
    tokens = np.asarray(text.windows, dtype=np.int64).reshape(-1)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < vocab_size):
        raise UsageError(
            f"{text.origin} holds token {tokens.max() if tokens.min() >= 0 else tokens.min()}, "
            f"the vocabulary has {vocab_size}",
            hint="tokenize the text with the source model's own tokenizer",
        )
    length = min(n_ctx, tokens.size // 2)
    if length < SHORTEST_WINDOW:
        raise UsageError(
            f"{text.origin} has {tokens.size} tokens, choosing a mix needs at least {2 * SHORTEST_WINDOW}",
            hint="give a longer calibration text",
        )
    windows = tokens[: tokens.size // length * length].reshape(-1, length)
    wanted = min(search, len(windows) - max(1, min(check, len(windows) // 2)))
    chosen = _spread(len(windows), wanted)
    rest = np.setdiff1d(np.arange(len(windows)), chosen)
    return SplitText(windows[chosen], windows[rest[_spread(len(rest), min(check, len(rest)))]])


def windows_sha256(windows: Windows) -> str:
    return hashlib.sha256(
        f"{windows.shape}".encode() + np.ascontiguousarray(windows, dtype="<i8").tobytes()
    ).hexdigest()


def _spread(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """`wanted` different indices below `count`, evenly spaced."""
    return np.arange(wanted, dtype=np.int64) * count // wanted
