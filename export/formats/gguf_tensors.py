"""Which GGUF tensor holds which of the checkpoint's, in which row order, and what is computed from the configuration.

Names follow llama.cpp's tensor map. Where it rotates neighbouring features and Hugging Face rotates halves (`llama`,
`granite`), the rows of q and k, and their biases, are reordered per head. `phi3` holds query, key and value in one tensor
and gate and up in another, as the family's own folders do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD, DecoderSpec
from edgeport.export.families.storage import FUSED_ATTENTION, FUSED_FEED_FORWARD, PLAIN_STORAGE, Storage
from edgeport.export.formats.gguf_architecture import ARCHITECTURES, architecture
from edgeport.export.formats.gguf_blocks import Index
from edgeport.export.formats.rope import llama3_divisors

ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
NO_SINK = -1e30
"""exp of it is zero whatever it is compared with, and the difference of two is still finite."""

_TOP = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_IN_LAYER = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FUSED = Storage(fused=(FUSED_ATTENTION, FUSED_FEED_FORWARD))


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor to write: the checkpoint's `sources`, whose rows follow each other, in the order `rows` (None: their own)."""

    name: str
    sources: tuple[str, ...]
    rows: Index | None = None


def gguf_tensors(spec: DecoderSpec) -> Iterator[GgufTensor]:
    """Every tensor that holds some of the spec's, in checkpoint order."""
    for item in spec.tensors():
        sources = _storage(spec).group(item.name)[1]
        if item.name == sources[0]:
            yield GgufTensor(gguf_name(spec, item.name), sources, _row_order(spec, item.name))


def gguf_name(spec: DecoderSpec, name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`: where llama.cpp finds the tensor, or what it is part of."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, rest = _storage(spec).group(name)[0].split(".", 3)
    module, _, suffix = rest.rpartition(".")
    return f"blk.{layer}.{_layer_names(spec)[module]}.{suffix}"


def layer_of(name: str) -> int:
    """`model.layers.3.mlp.up_proj.weight` -> 3."""
    return int(name.split(".", 3)[2])


def interleaved_rows(heads: int, head_dim: int) -> Index:
    """Row order that puts feature i and i + head_dim / 2 of each head side by side."""
    order = np.arange(heads * head_dim, dtype=np.intp).reshape(heads, 2, head_dim // 2)
    return order.swapaxes(1, 2).reshape(-1)


def derived_tensors(spec: DecoderSpec) -> dict[str, npt.NDArray[np.float32]]:
    """What llama.cpp reads as tensors although no weight: rotary factors [rotary_dim / 2] and attention sinks [heads]."""
    rope = spec.rope
    found: dict[str, npt.NDArray[np.float32]] = {}
    if rope.kind == "llama3":
        found[ROPE_FACTORS] = llama3_divisors(rope, spec.head_dim).astype(np.float32)
    if rope.kind == "longrope":
        found[LONG_FACTORS] = np.asarray(rope.long_factors, dtype=np.float32)
        found[SHORT_FACTORS] = np.asarray(rope.short_factors, dtype=np.float32)
    if architecture(spec) == "granite_swa":
        for layer in range(spec.layers):
            found[f"blk.{layer}.attn_sinks.weight"] = np.full(spec.heads, NO_SINK, dtype=np.float32)
    return found


def _storage(spec: DecoderSpec) -> Storage:
    return _FUSED if ARCHITECTURES[architecture(spec)].fused else PLAIN_STORAGE


def _layer_names(spec: DecoderSpec) -> Mapping[str, str]:
    norms = spec.norms
    places = (
        (norms.before_attention, "attn_norm"),
        (norms.after_attention, "post_attention_norm"),
        (norms.before_feed_forward, "ffn_norm"),
        (norms.after_feed_forward, "post_ffw_norm"),
    )
    return _IN_LAYER | {module: name for module, name in places if module is not None}


def _row_order(spec: DecoderSpec, name: str) -> Index | None:
    if not ARCHITECTURES[architecture(spec)].interleaved:
        return None
    if ".self_attn.q_proj." in name:
        return interleaved_rows(spec.layer_shape(layer_of(name)).heads, spec.head_dim)
    if ".self_attn.k_proj." in name:
        return interleaved_rows(spec.layer_shape(layer_of(name)).kv_heads, spec.head_dim)
    return None
