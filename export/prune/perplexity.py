"""Perplexity of a float model on token windows, one layer in memory at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeport.export.calibrate.layerwise import LayerwiseModel
from edgeport.export.source import SourceModel
from edgeport.progress import Progress

Windows = npt.NDArray[np.int64]
_BATCH_TOKENS = 2048
_PIECE_VALUES = 1 << 23
"""Logits at a time: 64 MiB in float64."""


def window_perplexity(source: SourceModel, windows: Windows, *, threads: int, progress: Progress) -> float:
    """exp of the mean negative log-likelihood over the second half of each window [windows, n_ctx], as llama.cpp scores."""
    return float(np.exp(np.mean(window_losses(source, windows, threads=threads, progress=progress))))


def window_losses(
    source: SourceModel, windows: Windows, *, threads: int, progress: Progress
) -> npt.NDArray[np.float64]:
    """Nats per scored token: positions n_ctx / 2 to n_ctx - 2 predict the one after."""
    import torch

    n_ctx = windows.shape[1]
    batch = max(_BATCH_TOKENS // n_ctx, 1)
    with progress.stage("perplexity", total=source.spec.layers) as stage:
        model = LayerwiseModel(source, n_ctx=n_ctx, threads=threads)
        hidden = model.embed(windows)  # [windows, n_ctx, hidden_size]
        for index in range(model.layers):
            with model.layer(index) as module:
                for start in range(0, len(windows), batch):
                    hidden[start : start + batch] = model.run(index, module, hidden[start : start + batch])
            stage.advance()
        first = n_ctx // 2
        rows = model.final_norm(hidden[:, first:-1]).reshape(-1, hidden.shape[-1])
        wanted = torch.from_numpy(windows[:, first + 1 :].reshape(-1))
        head = model.head_weight()
        step = max(_PIECE_VALUES // len(head), 1)
        losses = []
        for start in range(0, len(rows), step):
            logits = (rows[start : start + step] @ head.T).double()
            losses.append(
                torch.nn.functional.cross_entropy(logits, wanted[start : start + step], reduction="none")
            )
        found: npt.NDArray[np.float64] = torch.cat(losses).numpy()
    return found
