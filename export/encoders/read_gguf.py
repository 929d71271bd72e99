"""Read the weights of a GGUF encoder back under their own names, with the `gguf` package's dequantization, which is tested
against ggml's C code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, dequantize

from edgeport.errors import ArtifactError

Floats = npt.NDArray[np.float32]
_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
    "cls": "pooler.dense",
    "cls.output": "classifier",
}


def read_weights(path: Path) -> Iterator[tuple[str, Floats]]:
    """(name in the checkpoint, float32 values) of every weight, one in memory at a time. Raises ArtifactError."""
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        # GGML has the input features first
        yield _name(path, tensor.name), values.reshape([int(size) for size in reversed(tensor.shape)])


def _name(path: Path, name: str) -> str:
    """`blk.3.ffn_up.weight` -> `encoder.layer.3.intermediate.dense.weight`."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?([a-z_.]+)\.(weight|bias)", name)
    if match is None or match.group(2) not in _NAMES:
        raise ArtifactError(f"{path} holds tensor {name}, which no encoder has")
    layer = "" if match.group(1) is None else f"encoder.layer.{match.group(1)}."
    return f"{layer}{_NAMES[match.group(2)]}.{match.group(3)}"
