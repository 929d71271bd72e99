"""The shape of a decoder-only model, and what its tensors are called: all that quantizers and writers need to know.

A family file (llama.py, qwen2.py) reads config.json into a `DecoderSpec`; everything after it works on the spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeport.export.families.storage import PLAIN_STORAGE, Storage

RopeKind = Literal["default", "linear", "llama3", "longrope"]
Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]
NormKind = Literal["rms", "layer"]
NormPlacement = Literal["pre", "post", "both"]
QueryKeyNorm = Literal["", "head", "all"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding, rotate-half convention.

    linear: positions divided by `factor`. llama3: frequencies scaled by wavelength (Llama 3.1 model card); the next
    three fields are for it alone. longrope (arXiv:2402.13753): each frequency divided by one of `short_factors` in a context
    of up to original_context_length, of `long_factors` beyond; cosine and sine times attention_factor in both.
    """

    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    short_factors: tuple[float, ...] = ()
    """[rotary_dim / 2]; of longrope alone, like the next."""
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0
    rotary_dim: int | None = None
    """How many leading features of each head turn; None: all of them."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes in which decoder layers may differ from each other; all are at least 1."""

    heads: int
    kv_heads: int
    intermediate_size: int


@dataclass(frozen=True, slots=True)
class BlockStyle:
    """How a decoder layer differs from Llama's, whose values are the defaults.

    norm_placement: norms before attention and feed-forward ("pre"), on what they give ("post", OLMo 2), or both (Gemma 2).
    query_key_norm: an RMSNorm over the features of each head, before rotation ("head"), or over all heads together ("all").
    gated: down(act(gate(x)) * up(x)); otherwise down(act(up(x))). attention_scale: of the scores, None for head_dim ** -0.5.
    attention_softcap: scores become cap * tanh(scores / cap). residual_scale: of what attention and feed-forward add.
    """

    norm: NormKind = "rms"
    norm_bias: bool = False
    norm_placement: NormPlacement = "pre"
    query_key_norm: QueryKeyNorm = ""
    activation: Activation = "silu"
    gated: bool = True
    attention_scale: float | None = None
    attention_softcap: float | None = None
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerNorms:
    """Names of a layer's norms inside it, without `.weight`; None where it has none at that place."""

    before_attention: str | None
    after_attention: str | None
    before_feed_forward: str | None
    after_feed_forward: str | None


NORMS: dict[NormPlacement, LayerNorms] = {
    "pre": LayerNorms("input_layernorm", None, "post_attention_layernorm", None),
    "post": LayerNorms(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "both": LayerNorms(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
}
"""By placement, as transformers names them: `post_attention_layernorm` means two things."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """One decoder-only transformer with grouped-query attention; `block` says what its layers are made of.

    Tensors have canonical names, Llama's, however the source calls them; edgeport.export.families.storage says where they lie.
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
    block: BlockStyle = BlockStyle()
    windows: tuple[int | None, ...] = ()
    """One per layer: how many of the last tokens it sees, its own included, None for all; empty where every layer sees all."""
    window_rope: RopeSpec | None = None
    """Of the layers with a window, where theirs is another."""
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    """Times the head's products, before logit_softcap."""
    logit_softcap: float | None = None
    storage: Storage = PLAIN_STORAGE

    def window(self, layer: int) -> int | None:
        """A window as long as the context is none."""
        window = self.windows[layer] if self.windows else None
        return None if window is None or window >= self.context_length else window

    def layer_rope(self, layer: int) -> RopeSpec:
        slides = bool(self.windows) and self.windows[layer] is not None
        return self.window_rope if slides and self.window_rope is not None else self.rope

    @property
    def attention_scale(self) -> float:
        scale = self.block.attention_scale
        return float(self.head_dim**-0.5) if scale is None else scale

    @property
    def norms(self) -> LayerNorms:
        return NORMS[self.block.norm_placement]

    @property
    def is_llama(self) -> bool:
        """Whether layers, embedding and head compute what Llama's do; biases and sizes may differ."""
        same = self.block == BlockStyle() and not any(map(self.window, range(self.layers)))
        scales = (self.embedding_scale, self.logit_scale, self.logit_softcap)
        plain_rope = self.rope.rotary_dim is None and self.rope.kind != "longrope"
        return same and scales == (1.0, 1.0, None) and plain_rope

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
        yield from self._norm(FINAL_NORM.removesuffix(".weight"))
        if not self.tied_embeddings:
            yield TensorSpec(HEAD, "head", (self.vocab_size, self.hidden_size))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        shape = self.layer_shape(layer)
        query, key_value = shape.heads * self.head_dim, shape.kv_heads * self.head_dim
        prefix = f"model.layers.{layer}."
        norms = self.norms
        if norms.before_attention:
            yield from self._norm(prefix + norms.before_attention)
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
            if name == "mlp.gate_proj" and not self.block.gated:
                continue
            yield TensorSpec(f"{prefix}{name}.weight", "linear", (rows, columns))
            if bias:
                yield TensorSpec(f"{prefix}{name}.bias", "bias", (rows,))
        if self.block.query_key_norm:
            whole = self.block.query_key_norm == "all"
            for name, width in (("q_norm", query), ("k_norm", key_value)):
                yield TensorSpec(
                    f"{prefix}self_attn.{name}.weight", "norm", (width if whole else self.head_dim,)
                )
        for norm in (norms.after_attention, norms.before_feed_forward, norms.after_feed_forward):
            if norm:
                yield from self._norm(prefix + norm)

    def _norm(self, module: str) -> Iterator[TensorSpec]:
        yield TensorSpec(f"{module}.weight", "norm", (self.hidden_size,))
        if self.block.norm_bias:
            yield TensorSpec(f"{module}.bias", "bias", (self.hidden_size,))

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
