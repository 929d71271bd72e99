"""The key-value part of a GGUF file: the model's shape and where its weights came from (keys of ggml's gguf.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gguf import GGUFWriter, LlamaFileType, RopeScalingType
from gguf.constants import GGML_QUANT_VERSION
from gguf.utility import size_label

import edgeport
from edgeport.export.checkpoint import TensorRecord
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.formats.gguf_architecture import ARCHITECTURES, architecture
from edgeport.scheme import Kind, TensorScheme

_FILE_TYPES: dict[Kind, tuple[LlamaFileType, str]] = {
    "int4": (LlamaFileType.MOSTLY_Q4_0, "Q4_0"),
    "int8": (LlamaFileType.MOSTLY_Q8_0, "Q8_0"),
    "bf16": (LlamaFileType.MOSTLY_BF16, "BF16"),
    "f16": (LlamaFileType.MOSTLY_F16, "F16"),
    "f32": (LlamaFileType.ALL_F32, "F32"),
}

_CACHE_MULTIPLE = 256


def file_type(spec: DecoderSpec, records: Iterable[TensorRecord]) -> tuple[LlamaFileType, str]:
    """The file's type and its label: what most parameters of the linear layers are stored as."""
    sizes = {item.name: item.shape[0] * item.shape[1] for item in spec.tensors() if item.role == "linear"}
    count: Counter[Kind] = Counter()
    for record in records:
        count[record.scheme.kind] += sizes.get(record.name, 0)
    return _FILE_TYPES[count.most_common(1)[0][0]]


def add_model(writer: GGUFWriter, spec: DecoderSpec, name: str) -> None:
    """Everything llama.cpp's loader reads of a dense decoder; derived values are written too, so none is guessed."""
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(size_label(spec.parameters(), 0, 0, 0))
    writer.add_string("edgeport.family", spec.family)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.hidden_size)
    shapes = spec.layer_shapes
    writer.add_feed_forward_length([item.intermediate_size for item in shapes] or spec.intermediate_size)
    writer.add_head_count([item.heads for item in shapes] or spec.heads)
    writer.add_head_count_kv([item.kv_heads for item in shapes] or spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    _add_rotation(writer, spec)
    _add_windows(writer, spec)
    _add_scales(writer, spec)


def _add_rotation(writer: GGUFWriter, spec: DecoderSpec) -> None:
    rope = spec.rope
    writer.add_rope_dimension_count(rope.rotary_dim or spec.head_dim)
    writer.add_rope_freq_base(rope.theta)
    if rope.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)
    if rope.kind == "longrope":
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
        # llama.cpp takes the long factors when the cache is longer than this, and rounds the cache up to 256 tokens.
        padded = -(-rope.original_context_length // _CACHE_MULTIPLE) * _CACHE_MULTIPLE
        writer.add_rope_scaling_orig_ctx_len(padded)


def _add_windows(writer: GGUFWriter, spec: DecoderSpec) -> None:
    name = architecture(spec)
    slides = [window is not None for window in spec.windows] or [False] * spec.layers
    if ARCHITECTURES[name].windows and (any(slides) or name == "gemma2"):
        # gemma2 without a window: llama.cpp would take one of 4096 for every other layer.
        window = max((window for window in spec.windows if window is not None), default=spec.context_length)
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern(slides)
        if ARCHITECTURES[name].scores_by_size:
            writer.add_rope_freq_base_swa((spec.window_rope or spec.rope).theta)
    if name == "phi3":
        # llama.cpp's phi3 applies none, and warns where the file names one.
        writer.add_sliding_window(0)


def _add_scales(writer: GGUFWriter, spec: DecoderSpec) -> None:
    known, block = ARCHITECTURES[architecture(spec)], spec.block
    if known.multipliers:
        writer.add_attention_scale(spec.attention_scale)
        writer.add_embedding_scale(spec.embedding_scale)
        writer.add_residual_scale(block.residual_scale)
        writer.add_logit_scale(1.0 / spec.logit_scale)  # llama.cpp divides by it
    if block.attention_softcap is not None:
        writer.add_attn_logit_softcapping(block.attention_softcap)
    if spec.logit_softcap is not None:
        writer.add_final_logit_softcapping(spec.logit_softcap)


def add_provenance(
    writer: GGUFWriter, kind: LlamaFileType, weights_id: str, records: Sequence[TensorRecord]
) -> None:
    """What the file is made of. `edgeport.weights_id` names the dequantized weights, in whatever container they are."""
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(kind)
    writer.add_string("edgeport.version", edgeport.__version__)
    writer.add_string("edgeport.weights_id", weights_id)
    writer.add_string("edgeport.schemes", _schemes([record.scheme for record in records]))


def _schemes(schemes: Sequence[TensorScheme]) -> str:
    """`int4-g32 x42, int8-g32 x1, f32 x13`: how many tensors of each scheme."""
    return ", ".join(f"{scheme} x{count}" for scheme, count in Counter(map(str, schemes)).most_common())
