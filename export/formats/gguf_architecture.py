"""Which of llama.cpp's architectures computes a decoder exactly, and what stands against it where none does.

Read from src/models/*.cpp, llama-model.cpp and llama-graph.cpp of the llama.cpp that llama-cpp-python 0.3.36 carries (MIT). A
setting that an architecture does not read would be ignored without a word, so every one is compared here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgeport.export.families.decoder import BlockStyle, DecoderSpec, RopeKind, RopeSpec

_ALL_ROPES: tuple[RopeKind, ...] = ("default", "linear", "llama3", "longrope")
_ALL_BIASES = ("qkv", "output", "mlp")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What one of them computes. block: its layer, whatever its scales and caps are.

    interleaved: it rotates neighbouring features (NORM in llama.cpp), otherwise halves (NEOX). ropes: the scalings it applies.
    partial_rotary: heads may turn in part. windows: layers may slide. biases: of which projections. square: the heads must
    add up to hidden_size. tied, untied: what the head may be. multipliers: granite's four. scores_by_size: the scale of the
    scores follows from the sizes (gemma). caps: scores and logits are soft-capped, always. layer_sizes: layers may differ.
    fused: query, key and value are one tensor, gate and up another.
    """

    block: BlockStyle = BlockStyle()
    interleaved: bool = False
    ropes: tuple[RopeKind, ...] = ("default", "linear")
    partial_rotary: bool = False
    windows: bool = False
    biases: tuple[str, ...] = ("qkv",)
    square: bool = False
    tied: bool = True
    untied: bool = True
    multipliers: bool = False
    scores_by_size: bool = False
    caps: bool = False
    layer_sizes: bool = False
    fused: bool = False


_LLAMA = Architecture(interleaved=True, ropes=_ALL_ROPES, biases=_ALL_BIASES)
_GEMMA = Architecture(
    block=BlockStyle(norm_placement="both", activation="gelu_tanh"), windows=True, scores_by_size=True
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "deci": replace(_LLAMA, layer_sizes=True),
    "granite": replace(_LLAMA, multipliers=True),
    "granite_swa": replace(_LLAMA, windows=True, multipliers=True),
    "qwen2": Architecture(square=True),
    "qwen3": Architecture(block=BlockStyle(query_key_norm="head")),
    "olmo2": Architecture(
        block=BlockStyle(norm_placement="post", query_key_norm="all"), square=True, tied=False
    ),
    "gemma2": replace(_GEMMA, untied=False, caps=True),
    "gemma3": replace(_GEMMA, block=replace(_GEMMA.block, query_key_norm="head")),
    "phi3": Architecture(
        ropes=("default", "linear", "longrope"), partial_rotary=True, biases=(), square=True, fused=True
    ),
}
FAMILIES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "nemotron-nas": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "granite": "granite",
    "olmo2": "olmo2",
}
"""The architecture that llama.cpp's own converter takes for a family; `architecture` says when it has to be another."""
NEEDS: Mapping[str, str] = {
    "granite_swa": "llama.cpp's other architectures have no sliding window for such a layer, so this file is a granite_swa, which "
    "older versions do not know (llama-cpp-python 0.3.36 does)"
}
"""What a file needs that most do not, for people."""
_LAYERS_OF_27B: Mapping[str, int] = {"gemma2": 46, "gemma3": 62}
"""By this number of layers llama.cpp knows the models whose scores are scaled by hidden_size / heads."""


def architecture(spec: DecoderSpec) -> str:
    """llama.cpp's architecture for a family of FAMILIES. Several compute a Llama layer, each with limits of its own.

    `llama` takes what is outside of `qwen2` and `phi3`, `deci` layers of different sizes. None but `granite_swa` lets a Llama
    layer slide; its sinks are written such that they weigh nothing, and its multipliers are 1.
    """
    usual = FAMILIES[spec.family]
    if not _is_plain(spec) or usual not in ("llama", "qwen2", "phi3"):
        return usual
    if spec.layer_shapes:
        return "deci"
    if any(map(spec.window, range(spec.layers))):
        return "granite_swa"
    return usual if not list(_sizes_against(spec, usual)) else "llama"


def reasons_against(spec: DecoderSpec) -> list[str]:
    """Why no architecture computes this model; empty when one does."""
    if spec.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        return [f"llama.cpp has no runtime for family {spec.family}, supported are {known}"]
    name = architecture(spec)
    found = [*_block_against(spec, name), *_sizes_against(spec, name), *_windows_against(spec, name)]
    return [f"llama.cpp's {name} {reason}" for reason in (*found, *_scales_against(spec, name))]


def _is_plain(spec: DecoderSpec) -> bool:
    """A Llama layer, whose whole heads turn: biases, windows, sizes and the scaling of the rotation may differ."""
    scales = (spec.embedding_scale, spec.logit_scale, spec.logit_softcap)
    return spec.block == BlockStyle() and scales == (1.0, 1.0, None) and spec.rope.rotary_dim is None


def _block_against(spec: DecoderSpec, name: str) -> Iterator[str]:
    known, block = ARCHITECTURES[name], spec.block
    plain = replace(block, attention_scale=None, attention_softcap=None, residual_scale=1.0)
    if plain != known.block:
        yield "has other norms, another activation or another feed-forward"
    if spec.layer_shapes and not known.layer_sizes:
        yield "has layers of one size"
    has = {"qkv": spec.qkv_bias, "output": spec.output_bias, "mlp": spec.mlp_bias}
    missing = [part for part, there in has.items() if there and part not in known.biases]
    if missing:
        yield f"has no biases in {', '.join(missing)}"
    if spec.tied_embeddings and not known.tied:
        yield "wants an output head of its own, this model's is tied to the embedding"
    if not spec.tied_embeddings and not known.untied:
        yield "takes the embedding for the output head, this model has one of its own"


def _sizes_against(spec: DecoderSpec, name: str) -> Iterator[str]:
    known = ARCHITECTURES[name]
    if known.square and spec.heads * spec.head_dim != spec.hidden_size:
        yield (
            f"wants heads that add up to the hidden size, here are {spec.heads} of {spec.head_dim} for {spec.hidden_size}"
        )
    if spec.rope.kind not in known.ropes:
        yield f"has no rope scaling {spec.rope.kind!r}"
    if spec.rope.rotary_dim is not None and not known.partial_rotary:
        yield "turns whole heads"


def _windows_against(spec: DecoderSpec, name: str) -> Iterator[str]:
    if not ARCHITECTURES[name].windows and any(map(spec.window, range(spec.layers))):
        yield "lets no layer slide over a window"
    if len({window for window in spec.windows if window is not None}) > 1:
        yield "has one window for all layers that slide"
    if spec.window_rope is None:
        return
    if name != "gemma3":
        yield "rotates every layer alike"
    elif spec.window_rope != RopeSpec(spec.window_rope.theta):
        yield "scales the rotation of layers that see everything only"


def _scales_against(spec: DecoderSpec, name: str) -> Iterator[str]:
    known, block = ARCHITECTURES[name], spec.block
    if not known.multipliers:
        scale = _scores_scale(spec, name)
        if not math.isclose(spec.attention_scale, scale, rel_tol=1e-6):
            yield f"multiplies scores by {scale:.6g}, this model by {spec.attention_scale:.6g}"
        embedding = math.sqrt(spec.hidden_size) if known.scores_by_size else 1.0
        if not math.isclose(spec.embedding_scale, embedding, rel_tol=1e-6):
            yield f"multiplies the embedding by {embedding:.6g}, this model by {spec.embedding_scale:.6g}"
        if (block.residual_scale, spec.logit_scale) != (1.0, 1.0):
            yield "scales neither what layers add nor the logits"
    if known.caps and None in (block.attention_softcap, spec.logit_softcap):
        yield "caps scores and logits, this model leaves one of them as they are"
    if block.attention_softcap is not None and not known.caps:
        yield "caps no scores"
    if spec.logit_softcap is not None and not known.scores_by_size:
        yield "caps no logits"


def _scores_scale(spec: DecoderSpec, name: str) -> float:
    if ARCHITECTURES[name].scores_by_size and spec.layers == _LAYERS_OF_27B[name]:
        return float((spec.hidden_size // spec.heads) ** -0.5)
    return float(spec.head_dim**-0.5)
