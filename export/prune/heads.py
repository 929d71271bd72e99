"""Attention heads: whole key-value groups, or query heads inside each group; the size of a head stays.

Score of a head: the root of the summed products of o_proj's input squares and its squared column lengths, the part of the
layer's output that comes through the head, input channels taken one by one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.prune.kept import Indices, Kept
from edgeport.export.prune.method import Change, Scores, Scoring, highest, resolve
from edgeport.export.prune.settings import Amount

_RANDOM_STREAM = 2


class Heads:
    def change(self, spec: DecoderSpec, wanted: Amount, snap: int) -> Change:
        del snap  # heads are cut whole
        target = resolve("heads", wanted, spec.heads)
        heads, kv_heads = head_counts(spec, target)
        notes = []
        if heads != target:
            allowed = ", ".join(map(str, sorted({count for count, _ in _possible(spec)})))
            notes.append(f"attention heads: {heads} instead of {target:g}; possible are {allowed}")
        config = {
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": spec.head_dim,
        }
        return Change(config, tuple(notes))

    def keep(self, scoring: Scoring, kept: Kept) -> Kept:
        query_heads, kv_heads = {}, {}
        for layer in kept.layers:
            scores = head_scores(scoring, layer)
            query_heads[layer], kv_heads[layer] = choose_heads(scores, scoring.source.spec, scoring.spec)
        return replace(kept, query_heads=query_heads, kv_heads=kv_heads)


def head_counts(spec: DecoderSpec, target: float) -> tuple[int, int]:
    """(query heads, key-value heads) nearest to `target` query heads, rather too many than too few.

    Query heads inside the groups go first where both ways reach the number: a key-value head less is a loss to all of its
    query heads.
    """
    return min(_possible(spec), key=lambda counts: (abs(counts[0] - target), -counts[0], -counts[1]))


def _possible(spec: DecoderSpec) -> list[tuple[int, int]]:
    """As many query heads in each group, or whole groups. Transformers opens a llama only where the number of heads divides
    the hidden width, although head_dim has made that meaningless."""
    group = spec.heads // spec.kv_heads
    inside = [(size * spec.kv_heads, spec.kv_heads) for size in range(1, group + 1)]
    whole = [(count * group, count) for count in range(1, spec.kv_heads)]
    return [counts for counts in (*inside, *whole) if spec.hidden_size % counts[0] == 0]


def choose_heads(scores: Scores, before: DecoderSpec, after: DecoderSpec) -> tuple[Indices, Indices]:
    """scores [heads] -> query heads and key-value heads that stay, ascending, query heads grouped as their keys are."""
    group = before.heads // before.kv_heads
    grouped = scores.reshape(before.kv_heads, group)
    if after.kv_heads < before.kv_heads:
        groups = highest(np.sqrt((grouped**2).sum(axis=1)), after.kv_heads)
        return (groups[:, None] * group + np.arange(group)).reshape(-1), groups
    inside = [
        highest(row, after.heads // after.kv_heads) + number * group for number, row in enumerate(grouped)
    ]
    return np.concatenate(inside), np.arange(before.kv_heads, dtype=np.int64)


def head_scores(scoring: Scoring, layer: int) -> Scores:
    """[heads], in units of the hidden state."""
    spec = scoring.source.spec
    prefix = f"model.layers.{layer}.self_attn."
    importance = scoring.settings.importance
    if importance == "random":
        return scoring.random(_RANDOM_STREAM, layer, spec.heads)
    output = scoring.weight(prefix + "o_proj.weight").astype(np.float64)  # [hidden_size, heads * head_dim]
    square = (output**2).sum(axis=0)
    if importance == "activation":
        square = square * scoring.second_moment(prefix + "o_proj.weight")
    return np.asarray(np.sqrt(square.reshape(spec.heads, spec.head_dim).sum(axis=1)))


HEADS = Heads()
