"""Which GGML type llama.cpp gives each tensor of a dense decoder when it quantizes to one of its file types.

Read from llama.cpp's src/llama-quant.cpp as vendored by llama-cpp-python 0.3.36 (MIT): a file type has a default type,
some tensors get more bits by their place in the model, and a row that the type's block does not divide falls back to a
type with smaller blocks. The tests compare every rule with files that llama.cpp wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType as File

from edgeport.export.families.decoder import DecoderSpec, Role
from edgeport.export.formats.gguf_architecture import architecture
from edgeport.export.formats.gguf_tensors import gguf_tensors

FALLBACKS: Mapping[Type, Type] = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
    Type.IQ4_XS: Type.IQ4_NL,
    Type.TQ1_0: Type.Q4_0,
    Type.TQ2_0: Type.Q4_0,
}
"""What a type of blocks of 256 becomes when the row is a multiple of 32 only; otherwise it becomes F16."""


_RULED_LIKE: Mapping[str, str] = {"attn_qkv": "attn_v"}
"""llama.cpp counts a fused matrix among those of the values."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands. sharing: query heads per key head. importance: whether an imatrix is given."""

    layer: int
    layers: int
    sharing: int
    importance: bool


Rules = tuple[tuple[Callable[[Place], bool], Type], ...]
"""Conditions and types, the first that holds wins; none: the default type."""


@dataclass(frozen=True, slots=True)
class GgufMix:
    """One file type: `default` for every matrix, except where `modules` has rules for its module (`attn_v`, ...).

    token_embedding: the type of an embedding that is not also the head; None: the default.
    """

    file_type: File
    default: Type
    modules: Mapping[str, Rules] = field(default_factory=dict)
    token_embedding: Type | None = None


@dataclass(frozen=True, slots=True)
class TensorType:
    """wanted: what the mix asks for; stored: what the tensor gets, another type when its rows do not fit."""

    wanted: Type
    stored: Type
    size_bytes: int


def tensor_types(spec: DecoderSpec, mix: GgufMix, *, importance: bool) -> dict[str, TensorType]:
    """The type of every tensor by its GGUF name, in checkpoint order."""
    items = {item.name: item for item in spec.tensors()}
    found = {}
    for tensor in gguf_tensors(spec):
        parts = [items[source] for source in tensor.sources]
        wanted = Type.F32
        if len(parts[0].shape) > 1:
            wanted = _wanted(spec, parts[0].role, tensor.name, mix, importance=importance)
        stored = fitting(wanted, parts[0].shape[-1])
        block, block_bytes = GGML_QUANT_SIZES[stored]
        count = sum(math.prod(part.shape) for part in parts)
        found[tensor.name] = TensorType(wanted, stored, count // block * block_bytes)
    return found


def fitting(wanted: Type, in_features: int) -> Type:
    """`wanted`, or what llama.cpp falls back to when the blocks of `wanted` do not divide a row."""
    if in_features % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    smaller = FALLBACKS.get(wanted, wanted)
    return smaller if in_features % GGML_QUANT_SIZES[smaller][0] == 0 else Type.F16


def _wanted(spec: DecoderSpec, role: Role, name: str, mix: GgufMix, *, importance: bool) -> Type:
    """Of a matrix by its GGUF name."""
    if role == "head" or (role == "embedding" and spec.tied_embeddings):
        return mix.default if mix.default is Type.Q8_0 else Type.Q6_K
    if role == "embedding":
        return mix.token_embedding or mix.default
    _, layer, module, _ = name.split(".")
    module = _RULED_LIKE.get(module, module)
    first = spec.layer_shape(0)  # whose sharing llama.cpp takes for that of all layers
    place = Place(int(layer), spec.layers, first.heads // first.kv_heads, importance)
    holding = (kind for holds, kind in mix.modules.get(module, ()) if holds(place))
    wanted = next(holding, mix.default)
    if module == "attn_v" and _is_70b(spec) and wanted in (Type.Q3_K, Type.Q4_K):
        return Type.Q5_K
    return wanted


def _is_70b(spec: DecoderSpec) -> bool:
    """llama.cpp knows the 70B models by their 80 layers, and gives their few value heads more bits."""
    by_layers = {"qwen2": True, "deci": True, "llama": spec.heads != spec.kv_heads}
    return spec.layers == 80 and by_layers.get(architecture(spec), False)


def _always(_: Place) -> bool:
    return True


def _first(count: int) -> Callable[[Place], bool]:
    return lambda place: place.layer < count


def _first_share(divisor: int) -> Callable[[Place], bool]:
    return lambda place: place.layer < place.layers // divisor


def _more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    first = place.layers // 8
    at_an_end = place.layer < first or place.layer >= 7 * place.layers // 8
    return at_an_end or (place.layer - first) % 3 == 2


def _shared_by_four(place: Place) -> bool:
    return place.sharing >= 4


def _first_eighth_with_importance(place: Place) -> bool:
    return place.importance and place.layer < place.layers // 8


def _first_eighth_without_importance(place: Place) -> bool:
    return not place.importance and place.layer < place.layers // 8


_VALUE_AND_DOWN = {"attn_v": ((_more_bits, Type.Q6_K),), "ffn_down": ((_more_bits, Type.Q6_K),)}
_IQ4 = {
    "attn_v": ((_shared_by_four, Type.Q5_K),),
    "ffn_down": ((_first_eighth_without_importance, Type.Q5_K),),
}
_Q2_K = {
    "attn_v": ((_shared_by_four, Type.Q4_K), (_always, Type.Q3_K)),
    "ffn_down": ((_always, Type.Q3_K),),
    "attn_output": ((_always, Type.Q3_K),),
}
_Q2_K_S = {"attn_v": ((_shared_by_four, Type.Q4_K),), "ffn_down": ((_first_share(8), Type.Q4_K),)}
_Q3_K_M = {
    "attn_v": ((_first(2), Type.Q5_K), (_always, Type.Q4_K)),
    "ffn_down": ((_first_share(16), Type.Q5_K), (_always, Type.Q4_K)),
    "attn_output": ((_always, Type.Q4_K),),
}
_Q3_K_L = dict.fromkeys(("attn_v", "ffn_down", "attn_output"), ((_always, Type.Q5_K),))
_Q4_0 = {"ffn_down": ((_first_eighth_with_importance, Type.Q4_1),)}
_Q4_K_S = {"attn_v": ((_first(4), Type.Q5_K),), "ffn_down": ((_first_share(8), Type.Q5_K),)}

MIXES: Mapping[str, GgufMix] = {
    "Q2_K_S": GgufMix(File.MOSTLY_Q2_K_S, Type.Q2_K, _Q2_K_S),
    "Q2_K": GgufMix(File.MOSTLY_Q2_K, Type.Q2_K, _Q2_K),
    "Q3_K_S": GgufMix(File.MOSTLY_Q3_K_S, Type.Q3_K),
    "Q3_K_M": GgufMix(File.MOSTLY_Q3_K_M, Type.Q3_K, _Q3_K_M),
    "Q3_K_L": GgufMix(File.MOSTLY_Q3_K_L, Type.Q3_K, _Q3_K_L),
    "Q4_0": GgufMix(File.MOSTLY_Q4_0, Type.Q4_0, _Q4_0),
    "IQ4_XS": GgufMix(File.MOSTLY_IQ4_XS, Type.IQ4_XS, _IQ4),
    "IQ4_NL": GgufMix(File.MOSTLY_IQ4_NL, Type.IQ4_NL, _IQ4),
    "Q4_K_S": GgufMix(File.MOSTLY_Q4_K_S, Type.Q4_K, _Q4_K_S),
    "Q4_K_M": GgufMix(File.MOSTLY_Q4_K_M, Type.Q4_K, _VALUE_AND_DOWN),
    "Q5_K_S": GgufMix(File.MOSTLY_Q5_K_S, Type.Q5_K),
    "Q5_K_M": GgufMix(File.MOSTLY_Q5_K_M, Type.Q5_K, _VALUE_AND_DOWN),
    "Q6_K": GgufMix(File.MOSTLY_Q6_K, Type.Q6_K),
    "Q8_0": GgufMix(File.MOSTLY_Q8_0, Type.Q8_0),
    "TQ1_0": GgufMix(File.MOSTLY_TQ1_0, Type.TQ1_0, token_embedding=Type.Q4_K),
    "TQ2_0": GgufMix(File.MOSTLY_TQ2_0, Type.TQ2_0, token_embedding=Type.Q4_K),
}
"""By llama.cpp's name of the file type."""
