"""Feed-forward width: the channels of the gated product that move the layer's output most stay.

Score of channel c: the root of its mean square on the calibration text times the length of down_proj's column, which is how
much the output would lose with it, channels taken one by one; Minitron (Muralidharan et al. 2024, arXiv:2407.14679, section
2.2) ranks by the mean activation alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.prune.kept import Kept
from edgeport.export.prune.method import Change, Scores, Scoring, highest, resolve
from edgeport.export.prune.per_layer import spread_widths
from edgeport.export.prune.settings import Amount
from edgeport.export.prune.snap import rounding_note, snap_width

_RANDOM_STREAM = 1


class FfnWidth:
    def change(self, spec: DecoderSpec, wanted: Amount, snap: int) -> Change:
        target = resolve("ffn", wanted, spec.intermediate_size)
        width = snap_width(target, spec.intermediate_size, snap)
        return Change({"intermediate_size": width}, rounding_note("FFN width", target, width, snap))

    def keep(self, scoring: Scoring, kept: Kept) -> Kept:
        scores = [ffn_scores(scoring, layer) for layer in kept.layers]
        width = scoring.spec.intermediate_size
        widths = [width] * len(scores)
        if scoring.settings.per_layer and width < scoring.source.spec.intermediate_size:
            widths = spread_widths(scores, width * len(scores), scoring.snap)
        pairs = zip(scores, widths, strict=True)
        chosen = [highest(layer_scores, count) for layer_scores, count in pairs]
        return replace(kept, ffn=dict(zip(kept.layers, chosen, strict=True)))


def ffn_scores(scoring: Scoring, layer: int) -> Scores:
    """[intermediate_size], in units of the hidden state, so that layers compare."""
    prefix = f"model.layers.{layer}.mlp."
    down = scoring.weight(prefix + "down_proj.weight")  # [hidden_size, intermediate_size]
    importance = scoring.settings.importance
    if importance == "random":
        return scoring.random(_RANDOM_STREAM, layer, down.shape[1])
    square = (down.astype(np.float64) ** 2).sum(axis=0)
    if importance == "magnitude":
        for name in ("gate_proj.weight", "up_proj.weight"):
            square += (scoring.weight(prefix + name).astype(np.float64) ** 2).sum(axis=1)
        return np.asarray(np.sqrt(square))
    return np.asarray(np.sqrt(scoring.second_moment(prefix + "down_proj.weight") * square))


FFN = FfnWidth()
