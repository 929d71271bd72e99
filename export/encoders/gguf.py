"""GGUF container for llama.cpp's architecture `bert`, which BERT, RoBERTa, XLM-RoBERTa and DistilBERT share.

llama.cpp adds the first row of the token types to every token, computes GELU by its tanh approximation from a float16 table
(ggml's ggml_vec_gelu_f32), and has one head: a dense layer with tanh and a projection over the first token (pooling `rank`).
What is not that is refused. Tensor names: llama.cpp's tensor map (gguf-py, MODEL_ARCH.BERT); keys: ggml's gguf.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType
from gguf.utility import size_label

from edgeport.errors import UnsupportedModel
from edgeport.export.checkpoint import StoredTensors, TensorRecord
from edgeport.export.encoders.packing import PackedEncoder, no_integer_compute
from edgeport.export.encoders.recipes import EncoderRecipe
from edgeport.export.encoders.sentence_transformers import copy_side_files
from edgeport.export.encoders.spec import (
    CLASSIFIER,
    EMBEDDING_NORM,
    POOLER,
    POSITIONS,
    TOKEN_TYPES,
    WORDS,
    EncoderSpec,
)
from edgeport.export.formats.gguf_blocks import ggml_type, packed_pieces, stored_bytes
from edgeport.export.formats.gguf_metadata import add_provenance
from edgeport.export.formats.gguf_tokenizer import add_tokenizer, read_tokenizer
from edgeport.export.verify.token_parity import check_token_parity, require_engine
from edgeport.runtimes.encoder_settings import EncoderSettings

ARCHITECTURE = "bert"
_POOLING = {
    "mean": PoolingType.MEAN,
    "cls": PoolingType.CLS,
    "last": PoolingType.LAST,
    "max": PoolingType.NONE,
}
_TOP = {
    WORDS: "token_embd.weight",
    POSITIONS: "position_embd.weight",
    TOKEN_TYPES: "token_types.weight",
    f"{EMBEDDING_NORM}.weight": "token_embd_norm.weight",
    f"{EMBEDDING_NORM}.bias": "token_embd_norm.bias",
    f"{POOLER}.weight": "cls.weight",
    f"{POOLER}.bias": "cls.bias",
    f"{CLASSIFIER}.weight": "cls.output.weight",
    f"{CLASSIFIER}.bias": "cls.output.bias",
}
_IN_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_FILE_TYPES = {
    "int4": (LlamaFileType.MOSTLY_Q4_0, "Q4_0"),
    "int8": (LlamaFileType.MOSTLY_Q8_0, "Q8_0"),
    "bf16": (LlamaFileType.MOSTLY_BF16, "BF16"),
    "f16": (LlamaFileType.MOSTLY_F16, "F16"),
    "f32": (LlamaFileType.ALL_F32, "F32"),
}


class GgufEncoderFormat:
    """Packs a checkpoint as `NAME-Q8_0.gguf` (NAME-Q4_0, NAME-BF16 ...)."""

    def reasons_against(self, spec: EncoderSpec, recipe: EncoderRecipe, source: Path) -> list[str]:
        reasons = no_integer_compute(recipe)
        if spec.activation == "relu":
            reasons.append("llama.cpp's bert computes GELU, this model relu")
        if spec.task == "token-classification":
            reasons.append("llama.cpp has no classifier of tokens")
        if spec.pooler == "relu":
            reasons.append("llama.cpp's classifier has tanh after its dense layer, this model relu")
        try:
            read_tokenizer(source, spec.vocab_size)
        except UnsupportedModel as error:
            reasons.append(error.message)
        return reasons

    def write(self, encoder: PackedEncoder, directory: Path) -> Path:
        """Raises UnsupportedModel for a tokenizer llama.cpp cannot reproduce, GateFailure when it differs after all."""
        require_engine()
        label = _file_type(encoder.spec, encoder.checkpoint.records)[1]
        path = directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', encoder.name)}-{label}.gguf"
        temporary = path.with_name(path.name + ".part")
        try:
            write_file(encoder, temporary)
            check_token_parity(temporary, encoder.checkpoint.source_directory)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)
        copy_side_files(encoder.checkpoint.source_directory, directory)
        return path


def write_file(encoder: PackedEncoder, path: Path) -> None:
    """Write `path`, which nobody has checked."""
    spec, checkpoint = encoder.spec, encoder.checkpoint
    tokenizer = read_tokenizer(checkpoint.source_directory, spec.vocab_size)
    writer = GGUFWriter(path, ARCHITECTURE)
    try:
        add_model(writer, spec, encoder.settings, encoder.name)
        kind = _file_type(spec, checkpoint.records)[0]
        add_provenance(writer, kind, checkpoint.weights_id, checkpoint.records)
        add_tokenizer(writer, tokenizer)
        writer.add_token_type_count(max(spec.token_types, 1))
        _write_tensors(writer, checkpoint)
    except BaseException:
        writer.close()
        raise


def add_model(writer: GGUFWriter, spec: EncoderSpec, settings: EncoderSettings, name: str) -> None:
    """Everything llama.cpp's loader reads of a bert."""
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(size_label(spec.parameters(), 0, 0, 0))
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.heads)
    writer.add_layer_norm_eps(spec.layer_norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_causal_attention(False)
    if spec.labels:
        writer.add_pooling_type(PoolingType.RANK)
        writer.add_classifier_output_labels(spec.labels)
    else:
        writer.add_pooling_type(_POOLING[settings.pooling])


def gguf_name(name: str) -> str:
    """`encoder.layer.3.output.dense.bias` -> `blk.3.ffn_down.bias`."""
    if name in _TOP:
        return _TOP[name]
    _, _, layer, rest = name.split(".", 3)
    module, _, suffix = rest.rpartition(".")
    return f"blk.{layer}.{_IN_LAYER[module]}.{suffix}"


def _write_tensors(writer: GGUFWriter, checkpoint: StoredTensors) -> None:
    """Header and key-values, every tensor's place, then the bytes of one tensor after the other."""
    for record in checkpoint.records:
        writer.add_tensor_info(
            gguf_name(record.name),
            record.shape,
            np.dtype(np.float32),
            stored_bytes(record),
            raw_dtype=ggml_type(record),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    stream = writer.fout[0]
    for record in checkpoint.records:
        writer.write_padding(stream, stream.tell())
        for piece in packed_pieces(checkpoint.tensor(record.name), ggml_type(record), None):
            stream.write(piece.data)
        writer.write_padding(stream, stream.tell())
        checkpoint.release(record.name)
    writer.close()


def _file_type(spec: EncoderSpec, records: Sequence[TensorRecord]) -> tuple[LlamaFileType, str]:
    """The file's type and its label: what most parameters of the linear layers are stored as."""
    linears = {item.name for item in spec.tensors() if item.role == "linear"}
    count: Counter[str] = Counter()
    for record in records:
        if record.name in linears:
            count[record.kind] += record.shape[0] * record.shape[1]
    return _FILE_TYPES[count.most_common(1)[0][0]]
