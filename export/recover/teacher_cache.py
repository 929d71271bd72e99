"""A teacher's answers on disk: for each position the log probabilities of its k likeliest tokens, and of all others together.

Three .npy files, one row per window, written where they belong when a window is first asked for:
    values.npy   float16 [windows, n_ctx, k + 1] log probabilities at the loss's temperature, the rest last
    indices.npy  uint32  [windows, n_ctx, k]
    known.npy    uint8   [windows]; set by `sync` only, after the other two are on disk
What is trained on is always what was read back, so that a run that asks and a run that remembers see the same numbers.
The temperature is part of the fingerprint: the mass of the rest at another one cannot be computed from this one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.export.preflight import require_disk
from edgeport.export.recover.losses import FullTarget, TopKTarget
from edgeport.export.recover.teacher import Teacher

if TYPE_CHECKING:
    import torch

_LEAST_LOG = -30.0
"""Of the rest: below this it is nothing, and minus infinity times zero would be no number."""


class CachedTeacher:
    """Remembers what `teacher` says. `shape`: (windows, n_ctx); a folder with another fingerprint is emptied."""

    def __init__(
        self,
        teacher: Teacher,
        directory: Path,
        fingerprint: Mapping[str, Any],
        *,
        shape: tuple[int, int],
        k: int,
        temperature: float,
    ) -> None:
        self._teacher, self._directory, self._k, self._temperature = teacher, directory, k, temperature
        document = {**fingerprint, "shape": list(shape), "k": k, "temperature": temperature}
        mark, wanted = directory / "cache.json", json.dumps(document, sort_keys=True)
        if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            require_disk(directory, cache_bytes(shape, k))
            self._open("w+", shape)
            mark.write_text(wanted, encoding="utf-8")
        self._open("r+", shape)
        self._fresh: list[int] = []

    def _open(self, mode: str, shape: tuple[int, int]) -> None:
        def array(name: str, dtype: Any, wanted: tuple[int, ...]) -> Any:
            path = self._directory / f"{name}.npy"
            return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=wanted)

        self._values = array("values", np.float16, (*shape, self._k + 1))
        self._indices = array("indices", np.uint32, (*shape, self._k))
        self._known = array("known", np.uint8, (shape[0],))
        self._here = np.array(self._known, dtype=np.bool_)

    def targets(self, numbers: npt.NDArray[np.int64], tokens: torch.Tensor) -> TopKTarget:
        import torch

        missing = np.flatnonzero(~self._here[numbers])
        if len(missing):
            self._ask(numbers[missing], tokens[torch.from_numpy(missing)])
        values = torch.from_numpy(np.array(self._values[numbers])).float()
        values = values - values.logsumexp(dim=-1, keepdim=True)  # float16 has rounded the sum of all off one
        return TopKTarget(values, torch.from_numpy(self._indices[numbers].astype(np.int64)))

    def _ask(self, numbers: npt.NDArray[np.int64], tokens: torch.Tensor) -> None:
        target = self._teacher.targets(numbers, tokens)
        assert isinstance(target, FullTarget)
        coarse = coarsen(target.logits, self._k, self._temperature)
        self._values[numbers] = coarse.log_probabilities.numpy().astype(np.float16)
        self._indices[numbers] = coarse.indices.numpy().astype(np.uint32)
        self._here[numbers] = True
        self._fresh.extend(numbers.tolist())

    def sync(self) -> None:
        if not self._fresh:
            return
        self._values.flush()
        self._indices.flush()
        self._known[self._fresh] = 1
        self._known.flush()
        self._fresh = []


def coarsen(logits: torch.Tensor, k: int, temperature: float) -> TopKTarget:
    """logits [batch, n_ctx, vocab_size] -> its k likeliest tokens, and the rest as one."""
    import torch

    scaled = logits.float() / temperature
    values, indices = scaled.topk(k, dim=-1)
    rest = scaled.scatter(-1, indices, -torch.inf).logsumexp(dim=-1, keepdim=True)
    whole = scaled.logsumexp(dim=-1, keepdim=True)
    return TopKTarget((torch.cat([values, rest], dim=-1) - whole).clamp_min(_LEAST_LOG), indices)


def cache_bytes(shape: tuple[int, int], k: int) -> int:
    return math.prod(shape) * (2 * (k + 1) + 4 * k) + shape[0]
