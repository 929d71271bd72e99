"""Hidden width: the channels that the norms let through most stay, the same in every layer.

Score of channel c: the mean magnitude of the norms' outputs on the calibration text, summed over all layers, as Minitron
ranks embedding channels (Muralidharan et al. 2024, arXiv:2407.14679, section 2.2). `kept.cut_tensor` has the exact
correction of the norms.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgeport.export.families.decoder import EMBEDDING, DecoderSpec
from edgeport.export.prune.kept import Kept
from edgeport.export.prune.method import Change, Scores, Scoring, highest, resolve
from edgeport.export.prune.settings import Amount
from edgeport.export.prune.snap import rounding_note, snap_width

_RANDOM_STREAM = 3
_READERS = ("self_attn.q_proj.weight", "mlp.gate_proj.weight")
"""One linear after each norm of a layer: its input is the norm's output."""


class EmbeddingWidth:
    def change(self, spec: DecoderSpec, wanted: Amount, snap: int) -> Change:
        target = resolve("embedding", wanted, spec.hidden_size)
        # Transformers opens a llama only where the number of heads divides the hidden width.
        multiple = math.lcm(snap, spec.heads)
        width = snap_width(target, spec.hidden_size, multiple)
        config = {
            "hidden_size": width,
            "head_dim": spec.head_dim,
            "rms_norm_eps": spec.rms_norm_eps * spec.hidden_size / width,
        }
        return Change(config, rounding_note("hidden width", target, width, multiple))

    def keep(self, scoring: Scoring, kept: Kept) -> Kept:
        return replace(kept, hidden=highest(hidden_scores(scoring, kept.layers), scoring.spec.hidden_size))


def hidden_scores(scoring: Scoring, layers: tuple[int, ...]) -> Scores:
    """[hidden_size]"""
    importance = scoring.settings.importance
    size = scoring.source.spec.hidden_size
    if importance == "random":
        return scoring.random(_RANDOM_STREAM, 0, size)
    if importance == "magnitude":
        return np.asarray(np.sqrt((scoring.weight(EMBEDDING).astype(np.float64) ** 2).sum(axis=0)))
    names = [f"model.layers.{layer}.{reader}" for layer in layers for reader in _READERS]
    return np.asarray(sum((scoring.mean_magnitude(name) for name in names), np.zeros(size)))


EMBEDDING_WIDTH = EmbeddingWidth()
