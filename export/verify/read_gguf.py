"""Read the weights of a GGUF file back as Hugging Face names and layouts, without any code of the writer.

Dequantization is the `gguf` package's, which is tested against ggml's C code; the head counts and the architecture come
from the file. llama.cpp rounds activations to 8 bits before every Q4_0 or Q8_0 product, so a file of quantized weights has
no exact mode: `dequantized_copy` makes a float32 file of the same weights for comparing logits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGUF_VERSION, GGMLQuantizationType, LlamaFileType, dequantize

from edgeport.errors import ArtifactError
from edgeport.export.verify.gguf_header import GgufHeader, TensorInfo, read_header

Floats = npt.NDArray[np.float32]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_DERIVED = ("rope_freqs.weight",)  # computed from config.json, not a weight of the model
_PIECE_ELEMENTS = 1 << 20


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """Every weight as (Hugging Face name, float32 in Hugging Face layout), one tensor in memory at a time.

    Raises ArtifactError naming the file and the tensor when something is truncated, damaged or unknown.
    """
    header = read_header(path)
    for info in header.tensors:
        if info.name not in _DERIVED:
            values = _hugging_face_rows(header, info, _dequantized(path, info))
            yield hugging_face_name(path, info.name), values


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


def hugging_face_name(path: Path, name: str) -> str:
    """`blk.3.ffn_up.weight` -> `model.layers.3.mlp.up_proj.weight`."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)", name)
    if match is None or match.group(2) not in _NAMES:
        raise ArtifactError(f"{path} holds tensor {name}, which no supported model has")
    layer = "" if match.group(1) is None else f"model.layers.{match.group(1)}."
    return f"{layer}{_NAMES[match.group(2)]}.{match.group(3)}"


def _hugging_face_rows(header: GgufHeader, info: TensorInfo, values: Floats) -> Floats:
    """Undo the row order of `llama` and `deci`: there features i and i + head_dim / 2 of a head are neighbours."""
    match = re.fullmatch(r"blk\.(\d+)\.attn_([qk])\.(?:weight|bias)", info.name)
    architecture = header.text("general.architecture")
    if match is None or architecture not in ("llama", "deci"):
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
