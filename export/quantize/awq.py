"""Activation-aware weight scaling (AWQ; Lin et al. 2023, arXiv:2306.00978): large input channels get finer weights.

A linear computes W x = (W s)(x / s) for any positive scale s per input channel. Dividing the rows of the operation that makes
x by s is free, and a column that was scaled up loses less to rounding, relative to itself. Candidates for s are the paper's,
the mean magnitude of x to a power a in [0, 1], and the same over w ** (1 - a), w being the mean magnitude of the column's
weights relative to the largest of their block (AutoAWQ's "duo scaling"); both normalised to a geometric mean of one. Twenty
steps of a each are searched for the least error tr(dW H dW^T), dW = Q(W s) / s - W, summed over the linears that read x. No
scale at all is always a candidate, so this error never grows. The float function of the layer stays what it was.

What makes x, and what reads it:

    input_layernorm           -> q_proj, k_proj, v_proj
    v_proj                    -> o_proj     a value channel serves all query heads of its group, so they share its scale
    post_attention_layernorm  -> gate_proj, up_proj
    up_proj                   -> down_proj

Q is the activation-weighted search of `imatrix`. The paper's clip search is part of it: it tries scales down to 80 % of the one
that reaches the largest value. Going on to 60 % changed the output error of the reference model's 42 linears by 0.1 % on
average (measured: -1.4 % to +0.4 %), so there is no second search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.quantize import imatrix
from edgeport.export.quantize.grid import LARGEST_SCALE, Floats
from edgeport.scheme import TensorScheme

_STEPS = 20
CANDIDATES = tuple(
    [(step / _STEPS, 0.0) for step in range(1, _STEPS + 1)]
    + [(step / _STEPS, 1 - step / _STEPS) for step in range(_STEPS)]
)
"""Exponents (of the input's magnitude, of the weights' magnitude below it)."""
_SEARCHED_ROWS = 128
"""Rows of each weight, evenly spread, that the exponent is searched on; the winner has to prove itself on all rows."""
_PIECE_ROWS = 512

SchemeOf = Callable[[str], TensorScheme]


@dataclass(frozen=True, slots=True)
class FoldingChoice:
    """What was done to one pair: s = x ** input_exponent / w ** weight_exponent, both zero where no scale was better.

    Errors are tr(dW H dW^T) over all rows of all quantized consumers.
    """

    producer: str
    consumers: tuple[str, ...]
    input_exponent: float
    weight_exponent: float
    error_before: float
    error_after: float

    @property
    def changes(self) -> bool:
        return bool(self.input_exponent or self.weight_exponent)


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """weights: every tensor of the layer by Hugging Face name, float32; statistics: of the inputs as they are now;
    choices: one for each pair that has a quantized consumer."""

    weights: dict[str, Floats]
    statistics: dict[str, InputStatistics]
    choices: tuple[FoldingChoice, ...]


@dataclass(frozen=True, slots=True)
class FoldingPair:
    """producer: name of the weight whose output (or whose norm) feeds `consumers`; copies: how often each group of `width`
    outputs appears in a row among the consumers' inputs (query heads per key-value head), 1 for all but values."""

    producer: str
    consumers: tuple[str, ...]
    width: int = 1
    copies: int = 1

    def spread(self, scale: Floats) -> Floats:
        """Scale per output of the producer -> scale per input of the consumers."""
        return np.repeat(scale.reshape(-1, self.width), self.copies, axis=0).reshape(-1)

    def gather(self, magnitude: Floats) -> Floats:
        """Magnitude per input of the consumers -> mean over the copies of each output of the producer."""
        return np.asarray(magnitude.reshape(-1, self.copies, self.width).mean(axis=1).reshape(-1))


def folding_pairs(spec: DecoderSpec, index: int) -> tuple[FoldingPair, ...]:
    """The places of decoder layer `index` where a scale can be moved across: before each product and behind no activation."""
    prefix, shape = f"model.layers.{index}.", spec.layer_shape(index)
    attention = tuple(f"{prefix}self_attn.{name}_proj.weight" for name in "qkvo")
    gate, up, down = (f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
    copies, norms = shape.heads // shape.kv_heads, spec.norms
    pairs = [FoldingPair(attention[2], attention[3:], width=spec.head_dim, copies=copies)]
    if norms.before_attention:
        pairs.insert(0, FoldingPair(f"{prefix}{norms.before_attention}.weight", attention[:3]))
    if norms.before_feed_forward:
        pairs.append(FoldingPair(f"{prefix}{norms.before_feed_forward}.weight", (gate, up)))
    return (*pairs, FoldingPair(up, (down,)))


def fold(
    spec: DecoderSpec,
    index: int,
    weights: Mapping[str, Floats],
    statistics: Mapping[str, InputStatistics],
    recipe_scheme: SchemeOf,
) -> FoldedLayer:
    """Fold scales into layer `index`.

    weights: all tensors of the layer by Hugging Face name, float32; they are not changed. statistics: of the input of each
    linear, by the name of its weight; where one has no hessian, its second moments stand for the diagonal of one and input
    features count as uncorrelated. recipe_scheme: what each weight will be stored as; a pair whose consumers stay float is
    left alone. Raises UnsupportedModel for statistics that are not finite.
    """
    folded = dict(weights)
    now = dict(statistics)
    choices = []
    for pair in folding_pairs(spec, index):
        quantized = tuple(name for name in pair.consumers if recipe_scheme(name).is_quantized)
        if not quantized:
            continue
        measure = _Measure.of(pair, {name: folded[name] for name in quantized}, now, recipe_scheme)
        bounds = _Bounds.of(pair, folded, recipe_scheme)
        scale, choice = _search(measure, bounds)
        choices.append(choice)
        if choice.changes:
            folded.update(apply_scale(pair, scale, folded))
            now.update({name: scaled_statistics(now[name], pair.spread(scale)) for name in pair.consumers})
    return FoldedLayer(folded, now, tuple(choices))


def apply_scale(pair: FoldingPair, scale: Floats, weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """The pair's tensors with `scale` [outputs of the producer] moved from producer to consumers."""
    producer = weights[pair.producer]
    changed = {pair.producer: producer / (scale if producer.ndim == 1 else scale[:, None])}
    bias = pair.producer.removesuffix("weight") + "bias"
    if bias in weights:
        changed[bias] = weights[bias] / scale
    columns = pair.spread(scale)
    changed.update({name: weights[name] * columns for name in pair.consumers})
    return {name: np.asarray(values, dtype=np.float32) for name, values in changed.items()}


def scaled_statistics(statistics: InputStatistics, scale: Floats) -> InputStatistics:
    """Statistics of x / scale from those of x."""
    hessian = statistics.hessian
    if hessian is not None:
        hessian = hessian / scale
        hessian /= scale[:, None]
    return InputStatistics(
        statistics.tokens, statistics.second_moment / scale**2, statistics.mean_magnitude / scale, hessian
    )


@dataclass(frozen=True, slots=True)
class _Measure:
    """The error of a pair's quantized consumers, whose weights are `weights`, under a scale of their common input."""

    pair: FoldingPair
    weights: Mapping[str, Floats]
    schemes: Mapping[str, TensorScheme]
    statistics: InputStatistics

    @classmethod
    def of(
        cls,
        pair: FoldingPair,
        weights: Mapping[str, Floats],
        statistics: Mapping[str, InputStatistics],
        scheme_of: SchemeOf,
    ) -> _Measure:
        shared = statistics[pair.consumers[0]]
        if not (np.isfinite(shared.second_moment).all() and np.isfinite(shared.mean_magnitude).all()):
            raise UnsupportedModel(
                f"statistics of the input of {pair.consumers[0]} are NaN or infinite",
                hint="the source model overflows in float32: its weights are damaged",
            )
        return cls(pair, weights, {name: scheme_of(name) for name in weights}, shared)

    def weight_magnitude(self) -> Floats:
        """Mean over all rows of |w| relative to the largest of its block, 0 where it is silent: [in_features]."""
        total = np.zeros_like(self.statistics.mean_magnitude)
        for name, weight in self.weights.items():
            for piece in _row_pieces(weight, None):
                blocks = np.abs(piece).reshape(len(piece), -1, self.schemes[name].block)
                largest = np.maximum(blocks.max(axis=2, keepdims=True), 1 / _LARGEST_FLOAT)
                total += (blocks / largest).sum(axis=0).reshape(-1)
        rows = sum(len(weight) for weight in self.weights.values())
        return np.where(self.statistics.mean_magnitude > 0, total / rows, 0).astype(np.float32)

    def error(self, scale: Floats, *, rows: int | None) -> float:
        """tr(dW H dW^T), over at most `rows` evenly spread rows of each weight (None: all)."""
        columns = self.pair.spread(scale)
        scaled = InputStatistics(
            self.statistics.tokens,
            self.statistics.second_moment / columns**2,
            self.statistics.mean_magnitude / columns,
            local=_scaled_local(self.statistics.local_products(), columns),
        )
        solve = imatrix.prepare(scaled)
        total = 0.0
        for name, weight in self.weights.items():
            for piece in _row_pieces(weight, rows):
                change = solve(piece * columns, self.schemes[name]).dequantize() / columns - piece
                total += self._energy(change)
        return total

    def _energy(self, change: Floats) -> float:
        if self.statistics.hessian is None:
            return float(np.einsum("ij,ij,j->", change, change, self.statistics.second_moment))
        return float(np.einsum("ij,ij->", change @ self.statistics.hessian, change))


def _scaled_local(local: Floats | None, columns: Floats) -> Floats | None:
    """Products of neighbouring features that are divided by `columns` [in_features]."""
    if local is None:
        return None
    blocks = columns.reshape(len(local), -1)
    return np.asarray(local / (blocks[:, :, None] * blocks[:, None, :]), dtype=np.float32)


def _row_pieces(weight: Floats, rows: int | None) -> list[Floats]:
    count = len(weight)
    if rows is not None and rows < count:
        return [weight[np.linspace(0, count - 1, rows).astype(np.int64)]]
    return [weight[start : start + _PIECE_ROWS] for start in range(0, count, _PIECE_ROWS)]


def _search(measure: _Measure, bounds: _Bounds) -> tuple[Floats, FoldingChoice]:
    pair = measure.pair
    inputs = pair.gather(measure.statistics.mean_magnitude)
    below = pair.gather(measure.weight_magnitude())
    neutral = np.ones_like(inputs)
    best, best_error, exponents = neutral, measure.error(neutral, rows=_SEARCHED_ROWS), (0.0, 0.0)
    for candidate in CANDIDATES:
        scale = bounds.clamp(channel_scale(inputs, candidate[0]) / channel_scale(below, candidate[1]))
        error = measure.error(scale, rows=_SEARCHED_ROWS)
        if error < best_error:
            best, best_error, exponents = scale, error, candidate
    before = measure.error(neutral, rows=None)
    after = measure.error(best, rows=None) if any(exponents) else before
    if not after < before:
        best, after, exponents = neutral, before, (0.0, 0.0)
    return best, FoldingChoice(pair.producer, pair.consumers, *exponents, before, after)


def channel_scale(magnitude: Floats, exponent: float) -> Floats:
    """magnitude ** exponent with a geometric mean of one over the live channels; 1 for channels that are always zero."""
    live = magnitude > 0
    logarithms = np.log(magnitude, where=live, out=np.zeros(magnitude.shape, dtype=np.float64))
    logarithms[live] -= logarithms[live].mean() if live.any() else 0.0
    return np.asarray(np.exp(exponent * logarithms), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The scales [outputs of the producer] under which every weight still fits what it will be stored as."""

    lowest: Floats
    highest: Floats

    @classmethod
    def of(cls, pair: FoldingPair, weights: Mapping[str, Floats], scheme_of: SchemeOf) -> _Bounds:
        producer = np.abs(weights[pair.producer])
        outputs = producer if producer.ndim == 1 else producer.max(axis=1)
        lowest = outputs / (_largest(scheme_of(pair.producer)) if producer.ndim == 2 else _LARGEST_FLOAT)
        highest = np.full_like(lowest, _LARGEST_FLOAT)
        for name in pair.consumers:
            columns = np.abs(weights[name]).max(axis=0).reshape(-1, pair.copies, pair.width).max(axis=1)
            largest = np.float32(_largest(scheme_of(name)))
            highest = np.minimum(highest, largest / np.maximum(columns.reshape(-1), 1 / _LARGEST_FLOAT))
        return cls(np.asarray(lowest, dtype=np.float32), np.asarray(highest, dtype=np.float32))

    def clamp(self, scale: Floats) -> Floats:
        """Nearest allowed scale; 1 where a weight fits nothing (the quantizer refuses it by name)."""
        return np.where(
            self.lowest <= self.highest, np.clip(scale, self.lowest, self.highest), np.float32(1)
        ).astype(np.float32)


_LARGEST_FLOAT = np.float32(2.0**60)
_LARGEST_F16 = np.float32(65504)


def _largest(scheme: TensorScheme) -> np.float32:
    """The largest weight a scheme holds."""
    if scheme.is_quantized:
        return np.float32(LARGEST_SCALE * (1 << (scheme.bits - 1)))
    return _LARGEST_F16 if scheme.kind == "f16" else _LARGEST_FLOAT


__all__ = [
    "FoldedLayer",
    "FoldingChoice",
    "FoldingPair",
    "apply_scale",
    "channel_scale",
    "fold",
    "folding_pairs",
]
