"""A model as its tensors and caches: what every estimate of memory and speed is computed from. No weights are needed.

Two readers make one: `config_shape` from a config.json, `file_shape` from the header of a GGUF or safetensors file. Both list the
same tensors, so that parameter counts are exact and not a formula per family.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgeport.manifest import ModelFacts

Role = Literal[
    "linear", "expert", "router", "embedding", "position", "head", "norm", "bias", "convolution", "other"
]
"""linear: a matrix every token goes through. expert: one that only chosen tokens do. position: a learned position table."""


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of the checkpoint, or `count` of one shape and role (the experts of a layer).

    shape: as in the checkpoint, [out_features, in_features] for a matrix. layer: None outside the decoder layers.
    bits: average stored bits per weight where a file says so, None when only a configuration is known.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    layer: int | None = None
    count: int = 1
    bits: float | None = None

    @property
    def parameters(self) -> int:
        product = self.count
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one layer remembers of a sequence.

    Keys [kv_heads, key_dim] and values [kv_heads, value_dim] for each token, of at most the last `window` tokens when that is given.
    Multi-head latent attention keeps one compressed vector: kv_heads 1, key_dim the latent and rotary part, value_dim 0.
    state_bytes: a recurrent layer's state, in float32, whatever the context; such a layer has kv_heads 0.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None
    state_bytes: int = 0

    def tokens(self, context_length: int) -> int:
        """Tokens kept of a context."""
        return context_length if self.window is None else min(context_length, self.window)

    @property
    def values_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Every tensor, and one cache per layer. heads, head_dim and intermediate_size are the widest layer's.

    experts, experts_per_token: 0 for a dense model. name: as the user gave it; family: the architecture's `model_type`.
    """

    name: str
    family: str
    hidden_size: int
    intermediate_size: int
    heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    tensors: tuple[TensorShape, ...]
    caches: tuple[CacheShape, ...]
    experts: int = 0
    experts_per_token: int = 0

    @property
    def layers(self) -> int:
        return len(self.caches)

    @property
    def parameters(self) -> int:
        """All of them; a tied head is counted once."""
        return sum(tensor.parameters for tensor in self.tensors)

    def parameters_of(self, roles: Iterable[Role]) -> int:
        wanted = frozenset(roles)
        return sum(tensor.parameters for tensor in self.tensors if tensor.role in wanted)

    @property
    def active_parameters(self) -> int:
        """Those one token goes through: of the experts only the chosen ones, of embedding and position tables none (one row)."""
        total = 0.0
        for tensor in self.tensors:
            if tensor.role == "expert":
                total += tensor.parameters * self.experts_per_token / max(1, self.experts)
            elif tensor.role == "embedding":
                total += tensor.parameters if self.tied_embeddings else 0
            elif tensor.role != "position":
                total += tensor.parameters
        return round(total)


def shape_of(facts: ModelFacts) -> ModelShape:
    """The shape a manifest's facts describe: a decoder like llama whose layers are alike, with their number of parameters.

    Of layers that differ, facts tell only the sum: key-value heads and feed-forward width are then spread over them evenly.
    What is left of the parameters are norms and biases.
    """
    hidden, layers = facts.hidden_size, facts.layers
    cached_heads = facts.kv_bytes_per_token // (4 * facts.head_dim)
    kv_heads = [cached_heads // layers + (layer < cached_heads % layers) for layer in range(layers)]
    query = facts.heads * facts.head_dim
    attention = hidden * (2 * query * layers + 2 * facts.head_dim * sum(kv_heads))
    table = facts.vocab_size * hidden
    room = facts.parameters - attention - table * (1 if facts.tied_embeddings else 2)
    width = min(facts.intermediate_size, max(0, room // (3 * hidden * layers)))
    tensors = [TensorShape("model.embed_tokens.weight", (facts.vocab_size, hidden), "embedding")]
    for layer in range(layers):
        key = kv_heads[layer] * facts.head_dim
        for name, shape in (
            ("self_attn.q_proj", (query, hidden)),
            ("self_attn.k_proj", (key, hidden)),
            ("self_attn.v_proj", (key, hidden)),
            ("self_attn.o_proj", (hidden, query)),
            ("mlp.gate_proj", (width, hidden)),
            ("mlp.up_proj", (width, hidden)),
            ("mlp.down_proj", (hidden, width)),
        ):
            tensors.append(TensorShape(f"model.layers.{layer}.{name}.weight", shape, "linear", layer))
    if not facts.tied_embeddings:
        tensors.append(TensorShape("lm_head.weight", (facts.vocab_size, hidden), "head"))
    rest = facts.parameters - sum(tensor.parameters for tensor in tensors)
    tensors.append(TensorShape("norms", (max(0, rest),), "norm"))
    return ModelShape(
        name=facts.family,
        family=facts.family,
        hidden_size=hidden,
        intermediate_size=facts.intermediate_size,
        heads=facts.heads,
        head_dim=facts.head_dim,
        vocab_size=facts.vocab_size,
        context_length=facts.context_length,
        tied_embeddings=facts.tied_embeddings,
        tensors=tuple(tensors),
        caches=tuple(CacheShape(heads, facts.head_dim, facts.head_dim) for heads in kv_heads),
    )
