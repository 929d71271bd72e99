"""Which GGML type llama.cpp gives a tensor when it quantizes to one of its file types, for any family.

Read from llama.cpp's src/llama-quant.cpp as vendored by llama-cpp-python 0.3.36 (MIT): a default type, more bits for some
tensors by their place, and types with smaller blocks for rows that 256 does not divide. Without an importance matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgeport.devices.ggml_types import BY_NAME, GgmlType
from edgeport.devices.shape import ModelShape, TensorShape

FALLBACKS: Mapping[str, str] = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""For rows that are a multiple of 32 only; others become F16."""
MODULES: Mapping[str, str] = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "out_proj": "attn_output",
    "qkv_proj": "attn_qkv", "c_attn": "attn_qkv", "query_key_value": "attn_qkv", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down", "gate_up_proj": "ffn_up", "w1": "ffn_gate", "w3": "ffn_up",
    "w2": "ffn_down", "fc1": "ffn_up", "fc2": "ffn_down", "dense_h_to_4h": "ffn_up", "dense_4h_to_h": "ffn_down",
    "c_fc": "ffn_up", "dense": "attn_output", "ffn_down_exps": "ffn_down", "ffn_gate_exps": "ffn_gate",
    "ffn_up_exps": "ffn_up",
}  # fmt: skip
"""A checkpoint's names of a matrix as llama.cpp's; the latter stand for themselves."""
EIGHT_EXPERTS = 8


@dataclass(frozen=True, slots=True)
class _Place:
    layer: int
    layers: int
    sharing: int
    experts: int


Rule = tuple[Callable[[_Place], bool], str]


@dataclass(frozen=True, slots=True)
class _FileType:
    default: str
    modules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


def _always(_: _Place) -> bool:
    return True


def _more_bits(place: _Place) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    first = place.layers // 8
    return place.layer < first or place.layer >= 7 * place.layers // 8 or (place.layer - first) % 3 == 2


def _first_eighth(place: _Place) -> bool:
    return place.layer < place.layers // 8


def _first_sixteenth(place: _Place) -> bool:
    return place.layer < place.layers // 16


def _first_four(place: _Place) -> bool:
    return place.layer < 4


def _first_two(place: _Place) -> bool:
    return place.layer < 2


def _shared_by_four(place: _Place) -> bool:
    return place.sharing >= 4


_MIX_M = {"attn_v": ((_more_bits, "Q6_K"),), "ffn_down": ((_more_bits, "Q6_K"),)}
FILE_TYPES: Mapping[str, _FileType] = {
    "q2_k": _FileType(
        "Q2_K",
        {
            "attn_v": ((_shared_by_four, "Q4_K"), (_always, "Q3_K")),
            "ffn_down": ((_always, "Q3_K"),),
            "attn_output": ((_always, "Q3_K"),),
        },
    ),
    "q3_k_m": _FileType(
        "Q3_K",
        {
            "attn_v": ((_first_two, "Q5_K"), (_always, "Q4_K")),
            "ffn_down": ((_first_sixteenth, "Q5_K"), (_always, "Q4_K")),
            "attn_output": ((_always, "Q4_K"),),
            "attn_qkv": ((_always, "Q4_K"),),
        },
    ),
    "q4_0": _FileType("Q4_0"),
    "iq4_xs": _FileType(
        "IQ4_XS", {"attn_v": ((_shared_by_four, "Q5_K"),), "ffn_down": ((_first_eighth, "Q5_K"),)}
    ),
    "q4_k_s": _FileType("Q4_K", {"attn_v": ((_first_four, "Q5_K"),), "ffn_down": ((_first_eighth, "Q5_K"),)}),
    "q4_k_m": _FileType("Q4_K", {**_MIX_M, "attn_qkv": ((_always, "Q5_K"),)}),
    "q5_k_s": _FileType("Q5_K"),
    "q5_k_m": _FileType("Q5_K", {**_MIX_M, "attn_qkv": ((_always, "Q6_K"),)}),
    "q6_k": _FileType("Q6_K"),
    "q8_0": _FileType("Q8_0"),
}
"""By our name of the precision, which is llama.cpp's of the file type in lower case."""


def ggml_type(tensor: TensorShape, shape: ModelShape, precision: str) -> GgmlType:
    """What llama.cpp stores `tensor` as in a file of type `precision`, one of FILE_TYPES."""
    if len(tensor.shape) == 1 or tensor.role in ("norm", "bias", "router", "position", "convolution"):
        return BY_NAME["F32"]
    return fitting(_wanted(tensor, shape, FILE_TYPES[precision]), in_features(tensor, shape))


def fitting(wanted: str, columns: int) -> GgmlType:
    """`wanted`, or what llama.cpp falls back to where its blocks do not divide a row."""
    for name in (wanted, FALLBACKS.get(wanted, wanted)):
        if columns % BY_NAME[name].block == 0:
            return BY_NAME[name]
    return BY_NAME["F16"]


def in_features(tensor: TensorShape, shape: ModelShape) -> int:
    """The length of a row; GPT-2 and the experts of gpt-oss are published transposed."""
    is_transposed = shape.family == "gpt2" and tensor.role == "linear"
    is_transposed |= shape.family == "gpt_oss" and tensor.role == "expert"
    if is_transposed and tensor.bits is None:  # a GGUF's tensors are in order already
        return tensor.shape[-2]
    return tensor.shape[-1]


def _wanted(tensor: TensorShape, shape: ModelShape, file_type: _FileType) -> str:
    if tensor.role == "head" or (tensor.role == "embedding" and shape.tied_embeddings):
        return "Q8_0" if file_type.default == "Q8_0" else "Q6_K"
    if tensor.layer is None:
        return file_type.default
    module = _module(tensor.name)
    kv_heads = max(1, shape.caches[tensor.layer].kv_heads)
    place = _Place(tensor.layer, shape.layers, shape.heads // kv_heads, shape.experts)
    if place.experts == EIGHT_EXPERTS and module in ("attn_k", "attn_v"):
        return "Q8_0"
    if place.experts == EIGHT_EXPERTS and module == "attn_output" and file_type.default == "Q4_K":
        return "Q5_K"
    rules = file_type.modules.get(module, ())
    wanted = next((kind for holds, kind in rules if holds(place)), file_type.default)
    is_70b = shape.layers == 80 and place.sharing > 1
    return "Q5_K" if module == "attn_v" and is_70b and wanted in ("Q3_K", "Q4_K") else wanted


def _module(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` and `blk.3.ffn_up.weight` -> `ffn_up`"""
    part = name.removesuffix(".weight").rpartition(".")[2]
    return MODULES.get(part, part)
