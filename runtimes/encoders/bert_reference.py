"""BERT's network in plain numpy, one sequence at a time: what engines are compared with, and where calibration looks inside.

Post-norm layers, learned positions, biases everywhere (arXiv:1810.04805); RoBERTa and DistilBERT differ in their tables alone.
Weights are asked for by BERT's own names without a prefix, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.runtimes.encoder import HiddenStates, SequenceLimits

Floats = npt.NDArray[np.float32]
Weights = Callable[[str], Floats]
Observer = Callable[[str, Floats], None]
"""Called with the name of a linear layer's weight and its input [tokens, in_features]."""

_error_function = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True, slots=True)
class BertShape:
    """activation: gelu, gelu_tanh or relu. has_token_types: whether a first row of them is added. pooler: tanh, relu or None;
    classified: logits of "sequence" (the first token) or of every "token", None without a classifier."""

    layers: int
    heads: int
    layer_norm_eps: float
    activation: str
    has_token_types: bool
    context_length: int
    vocab_size: int
    hidden_size: int
    pooler: str | None = None
    classified: str | None = None


class BertReference:
    """See edgeport.runtimes.encoder.Encoder and edgeport.runtimes.classification.Classifier."""

    def __init__(self, weights: Weights, shape: BertShape, observe: Observer | None = None) -> None:
        self._weights, self._shape, self._observe = weights, shape, observe
        self._limits = SequenceLimits(shape.context_length, shape.vocab_size)
        self.hidden_size = shape.hidden_size

    @property
    def vocab_size(self) -> int:
        return self._limits.vocab_size

    @property
    def context_length(self) -> int:
        return self._limits.context_length

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[HiddenStates]:
        self._limits.admit(sequences)
        return [self._states(sequence) for sequence in sequences]

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """[labels] of each sequence, or [tokens, labels]."""
        return [self._classify(states) for states in self.encode(sequences)]

    def close(self) -> None:
        self._limits.close()

    def _states(self, tokens: Sequence[int]) -> Floats:
        """[tokens, hidden_size]."""
        weights = self._weights
        hidden = weights("embeddings.word_embeddings.weight")[list(tokens)].astype(np.float32)
        hidden = hidden + weights("embeddings.position_embeddings.weight")[: len(tokens)]
        if self._shape.has_token_types:
            hidden = hidden + weights("embeddings.token_type_embeddings.weight")[0]
        hidden = self._normalize("embeddings.LayerNorm", hidden)
        for layer in range(self._shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        return hidden

    def _layer(self, prefix: str, hidden: Floats) -> Floats:
        mixed = self._attention(f"{prefix}attention.self.", hidden)
        projected = self._linear(f"{prefix}attention.output.dense", mixed)
        hidden = self._normalize(f"{prefix}attention.output.LayerNorm", projected + hidden)
        inner = activate(self._linear(f"{prefix}intermediate.dense", hidden), self._shape.activation)
        return self._normalize(
            f"{prefix}output.LayerNorm", self._linear(f"{prefix}output.dense", inner) + hidden
        )

    def _attention(self, prefix: str, hidden: Floats) -> Floats:
        """Every token looks at every token: [tokens, hidden_size]."""
        tokens, heads = len(hidden), self._shape.heads
        # [heads, tokens, head_dim]
        query, key, value = (
            self._linear(prefix + part, hidden).reshape(tokens, heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.float32(math.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: Floats = scores / scores.sum(axis=-1, keepdims=True) @ value
        return mixed.swapaxes(0, 1).reshape(tokens, -1)

    def _classify(self, states: Floats) -> Floats:
        rows = states[0] if self._shape.classified == "sequence" else states
        if self._shape.pooler is not None:
            rows = self._linear("pooler.dense", rows)
            rows = np.tanh(rows) if self._shape.pooler == "tanh" else np.maximum(rows, 0)
        return self._linear("classifier", rows)

    def _linear(self, module: str, hidden: Floats) -> Floats:
        name = f"{module}.weight"
        if self._observe is not None:
            self._observe(name, hidden)
        product: Floats = hidden @ self._weights(name).T + self._weights(f"{module}.bias")
        return product

    def _normalize(self, module: str, values: Floats) -> Floats:
        centred = values - values.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normal = centred / np.sqrt(variance + np.float32(self._shape.layer_norm_eps))
        result: Floats = normal * self._weights(f"{module}.weight") + self._weights(f"{module}.bias")
        return result


def activate(values: Floats, activation: str) -> Floats:
    """GELU by the error function or by its tanh approximation (arXiv:1606.08415), or ReLU."""
    if activation == "relu":
        return np.maximum(values, 0)
    if activation == "gelu_tanh":
        inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)
        approximate: Floats = (0.5 * values * (1 + np.tanh(inner))).astype(np.float32)
        return approximate
    erf = _error_function(values / math.sqrt(2)).astype(np.float32)
    result: Floats = (0.5 * values * (1 + erf)).astype(np.float32)
    return result
