"""The shape of a decoder-only model, and what its tensors are called: all that quantizers and writers need to know.

A family file (llama.py, qwen2.py) reads config.json into a `DecoderSpec`; everything after it works on the spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RopeKind = Literal["default", "linear", "llama3"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding over the whole head, rotate-half convention.

    linear: positions divided by `factor`. llama3: frequencies scaled by wavelength (Llama 3.1 model card); the last
    three fields are for it alone.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes in which decoder layers may differ from each other; all are at least 1."""

    heads: int
    kv_heads: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """One pre-norm decoder with RMSNorm, grouped-query attention and SwiGLU.

    heads, kv_heads and intermediate_size are those of every layer, or the largest where `layer_shapes` has one entry per
    layer; what works on a layer asks `layer_shape`.
    """

    family: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float
    rope: RopeSpec
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    config: Mapping[str, Any]
    """config.json as it was read."""
    layer_shapes: tuple[LayerShape, ...] = ()
    """One per layer where layers differ, empty where they are alike."""

    def layer_shape(self, layer: int) -> LayerShape:
        if self.layer_shapes:
            return self.layer_shapes[layer]
        return LayerShape(self.heads, self.kv_heads, self.intermediate_size)

    def parameters(self) -> int:
        """Exact, each tied tensor counted once."""
        return sum(_product(item.shape) for item in self.tensors())

    def tensors(self) -> Iterator[TensorSpec]:
        """Every tensor in checkpoint order: embedding, layer by layer, final norm, head (when not tied)."""
        yield TensorSpec(EMBEDDING, "embedding", (self.vocab_size, self.hidden_size))
        for layer in range(self.layers):
            yield from self.layer_tensors(layer)
        yield TensorSpec(FINAL_NORM, "norm", (self.hidden_size,))
        if not self.tied_embeddings:
            yield TensorSpec(HEAD, "head", (self.vocab_size, self.hidden_size))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        shape = self.layer_shape(layer)
        query, key_value = shape.heads * self.head_dim, shape.kv_heads * self.head_dim
        prefix = f"model.layers.{layer}."
        yield TensorSpec(prefix + "input_layernorm.weight", "norm", (self.hidden_size,))
        linears = (
            ("self_attn.q_proj", query, self.hidden_size, self.qkv_bias),
            ("self_attn.k_proj", key_value, self.hidden_size, self.qkv_bias),
            ("self_attn.v_proj", key_value, self.hidden_size, self.qkv_bias),
            ("self_attn.o_proj", self.hidden_size, query, self.output_bias),
            ("mlp.gate_proj", shape.intermediate_size, self.hidden_size, self.mlp_bias),
            ("mlp.up_proj", shape.intermediate_size, self.hidden_size, self.mlp_bias),
            ("mlp.down_proj", self.hidden_size, shape.intermediate_size, self.mlp_bias),
        )
        for name, rows, columns, bias in linears:
            yield TensorSpec(f"{prefix}{name}.weight", "linear", (rows, columns))
            if bias:
                yield TensorSpec(f"{prefix}{name}.bias", "bias", (rows,))
        yield TensorSpec(prefix + "post_attention_layernorm.weight", "norm", (self.hidden_size,))

    def kv_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        kv_heads = sum(self.layer_shape(layer).kv_heads for layer in range(self.layers))
        return 2 * kv_heads * self.head_dim * bytes_per_element


EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"

Role = Literal["embedding", "head", "linear", "norm", "bias"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor the family must have: its Hugging Face name, what it is for, and its shape [out_features, in_features]."""

    name: str
    role: Role
    shape: tuple[int, ...]


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
