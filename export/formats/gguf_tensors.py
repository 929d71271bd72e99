"""Which GGUF tensor each Hugging Face tensor becomes, and in which row order.

Names follow llama.cpp's tensor map. Its `llama` architecture rotates neighbouring features (NORM) where Hugging Face
rotates halves, so the rows of q and k, and their biases, are reordered per head; `qwen2` rotates halves itself (NEOX).
`deci` is `llama` with head counts and feed-forward widths per layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeport.export.families.decoder import EMBEDDING, FINAL_NORM, HEAD, DecoderSpec
from edgeport.export.formats.gguf_blocks import Index

ROPE_FACTORS = "rope_freqs.weight"

_TOP = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor to write: `source` is its name in the checkpoint, `rows` the order of its rows (None: unchanged)."""

    source: str
    name: str
    rows: Index | None


def architecture(spec: DecoderSpec) -> str:
    """llama.cpp's architecture. A qwen2 model outside of what its `qwen2` loads is the same network under `llama`.

    `qwen2` there has no rope factors and wants heads * head_dim == hidden_size; `llama` takes the biases too.
    """
    if spec.layer_shapes:
        return "deci"
    whole = spec.heads * spec.head_dim == spec.hidden_size
    return "qwen2" if spec.family == "qwen2" and whole and spec.rope.kind != "llama3" else "llama"


def gguf_tensors(spec: DecoderSpec) -> Iterator[GgufTensor]:
    """Every tensor of the spec in checkpoint order."""
    interleave = architecture(spec) != "qwen2"
    for item in spec.tensors():
        rows = None
        if interleave and ".self_attn.q_proj." in item.name:
            rows = interleaved_rows(spec.layer_shape(layer_of(item.name)).heads, spec.head_dim)
        elif interleave and ".self_attn.k_proj." in item.name:
            rows = interleaved_rows(spec.layer_shape(layer_of(item.name)).kv_heads, spec.head_dim)
        yield GgufTensor(item.name, gguf_name(item.name), rows)


def layer_of(name: str) -> int:
    """`model.layers.3.mlp.up_proj.weight` -> 3."""
    return int(name.split(".", 3)[2])


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, rest = name.split(".", 3)
    module, _, suffix = rest.rpartition(".")
    return f"blk.{layer}.{_IN_LAYER[module]}.{suffix}"


def interleaved_rows(heads: int, head_dim: int) -> Index:
    """Row order that puts feature i and i + head_dim / 2 of each head side by side."""
    order = np.arange(heads * head_dim, dtype=np.intp).reshape(heads, 2, head_dim // 2)
    return order.swapaxes(1, 2).reshape(-1)
