"""Read the weights of a GGUF file back as Hugging Face names and layouts, without any code of the writer.

Dequantization is the `gguf` package's, which is tested against ggml's C code; the head counts and the architecture come
from the file. llama.cpp rounds activations to 8 bits before every Q4_0 or Q8_0 product, so a file of quantized weights has
no exact mode: `dequantized_copy` makes a float32 file of the same weights for comparing logits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGUF_VERSION, GGMLQuantizationType, LlamaFileType, dequantize

from edgeport.errors import ArtifactError
from edgeport.export.verify.gguf_header import GgufHeader, TensorInfo, read_header

Floats = npt.NDArray[np.float32]

_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES: Mapping[str, tuple[str, ...]] = {
    "attn_norm": ("input_layernorm",),
    "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_q": ("self_attn.q_proj",),
    "attn_k": ("self_attn.k_proj",),
    "attn_v": ("self_attn.v_proj",),
    "attn_q_norm": ("self_attn.q_norm",),
    "attn_k_norm": ("self_attn.k_norm",),
    "attn_output": ("self_attn.o_proj",),
    "post_attention_norm": ("post_attention_layernorm",),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn_gate": ("mlp.gate_proj",),
    "ffn_up": ("mlp.up_proj",),
    "ffn_down": ("mlp.down_proj",),
    "post_ffw_norm": ("post_feedforward_layernorm",),
}
_ARCHITECTURE_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gemma2": {"ffn_norm": ("pre_feedforward_layernorm",)},
    "gemma3": {"ffn_norm": ("pre_feedforward_layernorm",)},
    "phi3": {"ffn_up": ("mlp.gate_proj", "mlp.up_proj")},
}
"""What an architecture means otherwise by the name of a tensor."""
_NEIGHBOURS = ("llama", "deci", "granite", "granite_swa")
"""Architectures in whose q and k the features i and i + head_dim / 2 of a head are neighbours."""
_DERIVED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Computed from config.json, no weights of the model."""
_SINKS = re.compile(r"blk\.\d+\.attn_sinks\.weight")
_NO_SINK = -1e30
_PIECE_ELEMENTS = 1 << 20


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """Every weight as (Hugging Face name, float32 in Hugging Face layout), one tensor in memory at a time.

    Raises ArtifactError naming the file and the tensor when something is truncated, damaged or unknown.
    """
    header = read_header(path)
    for info in header.tensors:
        if _SINKS.fullmatch(info.name):
            _require_no_sinks(header, info)
        elif info.name not in _DERIVED:
            names = hugging_face_names(header, info.name)
            yield from _split(header, info, names, _hugging_face_rows(header, info, _dequantized(path, info)))


def dequantized_copy(path: Path, out_path: Path) -> None:
    """The same model with every tensor in float32: same metadata, same names, same order."""
    header = read_header(path)
    metadata = bytearray(_bytes(path, *header.metadata_range))
    if "general.file_type" in header.value_offsets:
        at = header.value_offsets["general.file_type"] - header.metadata_range[0]
        struct.pack_into("<I", metadata, at, LlamaFileType.ALL_F32)
    temporary = out_path.with_name(out_path.name + ".part")
    with temporary.open("wb") as stream:
        stream.write(b"GGUF" + struct.pack("<IQQ", GGUF_VERSION, len(header.tensors), header.metadata_count))
        stream.write(metadata)
        _write_float_infos(stream, header)
        for info in header.tensors:
            _pad(stream, header.alignment)
            for piece in _dequantized_pieces(path, info):
                stream.write(piece.reshape(-1).view(np.uint8).data)
    temporary.replace(out_path)


def hugging_face_names(header: GgufHeader, name: str) -> tuple[str, ...]:
    """`blk.3.ffn_up.weight` -> `model.layers.3.mlp.up_proj.weight`; several where a tensor holds the rows of several.

    Empty for what is no weight. Raises ArtifactError for a tensor that no supported model has.
    """
    if name in _DERIVED or _SINKS.fullmatch(name):
        return ()
    own = _ARCHITECTURE_NAMES.get(header.text("general.architecture"), {})
    match = re.fullmatch(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)", name)
    if match is not None and match.group(2) in _LAYER_NAMES:
        modules = own.get(match.group(2), _LAYER_NAMES[match.group(2)])
        return tuple(f"model.layers.{match.group(1)}.{module}.{match.group(3)}" for module in modules)
    module, _, suffix = name.rpartition(".")
    if module not in _TOP_NAMES or suffix not in ("weight", "bias"):
        raise ArtifactError(f"{header.path} holds tensor {name}, which no supported model has")
    return (f"{_TOP_NAMES[module]}.{suffix}",)


def _split(
    header: GgufHeader, info: TensorInfo, names: tuple[str, ...], values: Floats
) -> Iterator[tuple[str, Floats]]:
    if len(names) == 1:
        yield names[0], values
        return
    rows = _rows_of_parts(header, info, len(names))
    if sum(rows) != values.shape[0]:
        raise ArtifactError(
            f"{header.path}: tensor {info.name} has {values.shape[0]} rows, the file's sizes make {sum(rows)}"
        )
    start = 0
    for name, count in zip(names, rows, strict=True):
        yield name, values[start : start + count]
        start += count


def _rows_of_parts(header: GgufHeader, info: TensorInfo, parts: int) -> list[int]:
    """Query, key and value by the file's heads; gate and up have the feed-forward's width each."""
    architecture, layer = header.text("general.architecture"), int(info.name.split(".")[1])
    if parts == 2:
        return [header.integer(f"{architecture}.feed_forward_length", layer)] * 2
    prefix = f"{architecture}.attention."
    heads, kv_heads = (header.integer(prefix + key, layer) for key in ("head_count", "head_count_kv"))
    key, value = (header.integer(prefix + name) for name in ("key_length", "value_length"))
    return [heads * key, kv_heads * key, kv_heads * value]


def _require_no_sinks(header: GgufHeader, info: TensorInfo) -> None:
    """A sink that weighs anything would take attention away from the tokens, and no weight of the model says so."""
    if not (_dequantized(header.path, info) <= _NO_SINK).all():
        raise ArtifactError(
            f"{header.path}: {info.name} holds attention sinks, which no supported model has",
            hint="the file is damaged or of another model",
        )


def _hugging_face_rows(header: GgufHeader, info: TensorInfo, values: Floats) -> Floats:
    """Undo the row order of the architectures that rotate neighbouring features."""
    match = re.fullmatch(r"blk\.(\d+)\.attn_([qk])\.(?:weight|bias)", info.name)
    architecture = header.text("general.architecture")
    if match is None or architecture not in _NEIGHBOURS:
        return values
    key = f"{architecture}.attention.head_count" + ("" if match.group(2) == "q" else "_kv")
    heads = header.integer(key, int(match.group(1)))
    if heads <= 0 or values.shape[0] % (2 * heads):
        raise ArtifactError(f"{header.path}: tensor {info.name} has {values.shape[0]} rows for {heads} heads")
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _dequantized(path: Path, info: TensorInfo) -> Floats:
    values = np.empty(info.shape, dtype=np.float32)
    rows = values.reshape(-1, info.shape[-1])
    start = 0
    for piece in _dequantized_pieces(path, info):
        rows[start : start + piece.shape[0]] = piece
        start += piece.shape[0]
    return values


def _dequantized_pieces(path: Path, info: TensorInfo) -> Iterator[Floats]:
    """A few rows at a time [rows, columns], read from the file so that no page of it stays mapped."""
    rows = int(np.prod(info.shape[:-1], dtype=np.int64))
    row_bytes = (info.stop - info.start) // rows
    step = max(1, _PIECE_ELEMENTS // info.shape[-1])
    with path.open("rb") as stream:
        stream.seek(info.start)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            raw = np.frombuffer(stream.read(count * row_bytes), dtype=np.uint8).reshape(count, row_bytes)
            try:
                yield np.ascontiguousarray(dequantize(raw, info.type), dtype=np.float32)
            except NotImplementedError as error:
                raise ArtifactError(
                    f"{path}: tensor {info.name} is {info.type.name}, which cannot be read"
                ) from error


def _write_float_infos(stream: BinaryIO, header: GgufHeader) -> None:
    offset = 0
    for info in header.tensors:
        name = info.name.encode()
        stream.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(info.shape)))
        stream.write(struct.pack(f"<{len(info.shape)}Q", *reversed(info.shape)))
        stream.write(struct.pack("<IQ", GGMLQuantizationType.F32, offset))
        size_bytes = 4 * int(np.prod(info.shape, dtype=np.int64))
        offset += -(-size_bytes // header.alignment) * header.alignment


def _pad(stream: BinaryIO, alignment: int) -> None:
    stream.write(b"\0" * (-stream.tell() % alignment))


def _bytes(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start)
