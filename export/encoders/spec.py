"""The shape of an encoder and what its tensors are called: all that the quantizer and the writers need to know.

A family file (bert.py, roberta.py, distilbert.py) reads config.json into an `EncoderSpec`. Tensors have BERT's own names without
a prefix, whatever the family calls them; the rows of RoBERTa's position table that no token ever has are left out, so that
position 0 is the first token's in every family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeport.export.families.decoder import TensorSpec

Task = Literal["features", "sequence-classification", "token-classification"]
Activation = Literal["gelu", "gelu_tanh", "relu"]
HeadActivation = Literal["tanh", "relu"]

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
EMBEDDING_NORM = "embeddings.LayerNorm"
POOLER = "pooler.dense"
CLASSIFIER = "classifier"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """One post-norm encoder with learned positions, LayerNorm and biases everywhere (arXiv:1810.04805).

    context_length: the most tokens of a sequence. token_types: rows of their table, 0 where the family has none.
    position_offset: rows of the source's position table before that of the first token. labels: in the order of the logits,
    empty for features. pooler: what follows the dense layer between the first token and the classifier, None without one.
    """

    family: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    layer_norm_eps: float
    activation: Activation
    token_types: int
    position_offset: int
    task: Task
    labels: tuple[str, ...]
    pooler: HeadActivation | None
    config: Mapping[str, Any]
    """config.json as it was read."""

    def parameters(self) -> int:
        return sum(math.prod(item.shape) for item in self.tensors())

    def tensors(self) -> Iterator[TensorSpec]:
        """Every tensor in checkpoint order: tables, layer by layer, head.

        Positions and token types have the role of a norm: they stay float32, because they are small and because llama.cpp
        adds a row of the token types as it lies in the file.
        """
        yield TensorSpec(WORDS, "embedding", (self.vocab_size, self.hidden_size))
        yield TensorSpec(POSITIONS, "norm", (self.context_length, self.hidden_size))
        if self.token_types:
            yield TensorSpec(TOKEN_TYPES, "norm", (self.token_types, self.hidden_size))
        yield from self._norm(EMBEDDING_NORM)
        for layer in range(self.layers):
            yield from self.layer_tensors(layer)
        if self.pooler is not None:
            yield from self._linear(POOLER, self.hidden_size, self.hidden_size)
        if self.labels:
            yield TensorSpec(f"{CLASSIFIER}.weight", "head", (len(self.labels), self.hidden_size))
            yield TensorSpec(f"{CLASSIFIER}.bias", "bias", (len(self.labels),))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        prefix, hidden = layer_prefix(layer), self.hidden_size
        for part in ("query", "key", "value"):
            yield from self._linear(f"{prefix}attention.self.{part}", hidden, hidden)
        yield from self._linear(f"{prefix}attention.output.dense", hidden, hidden)
        yield from self._norm(f"{prefix}attention.output.LayerNorm")
        yield from self._linear(f"{prefix}intermediate.dense", self.intermediate_size, hidden)
        yield from self._linear(f"{prefix}output.dense", hidden, self.intermediate_size)
        yield from self._norm(f"{prefix}output.LayerNorm")

    def _linear(self, module: str, rows: int, columns: int) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{module}.weight", "linear", (rows, columns))
        yield TensorSpec(f"{module}.bias", "bias", (rows,))

    def _norm(self, module: str) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{module}.weight", "norm", (self.hidden_size,))
        yield TensorSpec(f"{module}.bias", "norm", (self.hidden_size,))


def layer_prefix(layer: int) -> str:
    return f"encoder.layer.{layer}."
