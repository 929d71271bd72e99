"""Checkpoints of random codes: models nobody trained, for timing the kernels that will run real ones.

No weights are quantized and no torch is needed: any byte is a valid pair of INT4 codes. Scales keep activations near one, so
that no kernel meets infinities or denormals. The tokenizer has the 256 bytes and one merge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.export.checkpoint import SOURCE_FOLDER, Checkpoint, TensorRecord, write_index
from edgeport.export.families.decoder import DecoderSpec, TensorSpec
from edgeport.export.families.table import read_spec
from edgeport.export.formats.base import WriteOptions
from edgeport.export.safetensors_file import SafetensorsWriter, TensorPlan
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import TensorScheme

BLOCK = 32
KV_SHARE = 4
MANY_CACHES, FEW_CACHES = 2, 6
"""Query heads per key/value head: engines differ in whether a cache costs by the one or by the other."""
LARGE = "large"
SMALLEST_HIDDEN = 128
WIDE_HIDDEN = (2048, 1536, 1024, 768, 512, 384, 256, 128)
NARROW_HIDDEN = (1024, 768, 512, 384, 256, 128)
VOCABULARY = 4096
CONTEXT_LENGTH = 2048
_MERGE = ("Ġ", "t")
"""A space and the commonest letter: llama.cpp loads no vocabulary without a merge."""
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_END = 257


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    name: str
    hidden_size: int
    layers: int
    kv_share: int = KV_SHARE

    @property
    def config(self) -> dict[str, Any]:
        """A config.json of Llama's family; the feed-forward part is 2.75 times as wide, as in most small models."""
        head_dim = 128 if self.hidden_size >= 1024 else 32 if self.hidden_size < 256 else 64
        heads = self.hidden_size // head_dim
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": 11 * self.hidden_size // 4,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // self.kv_share),
            "head_dim": head_dim,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT_LENGTH,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": _END,
            "eos_token_id": _END,
        }

    @property
    def spec(self) -> DecoderSpec:
        return read_spec(self.config)


def synthetic_shapes(weights_bytes: int, bits: int) -> tuple[SyntheticShape, ...]:
    """Four models whose decoders of `bits` take about once, once, three quarters and twice `weights_bytes`: few wide layers, many
    narrow ones, fewer of these with fewer key/value heads, and more of the wide ones. Their times separate what a byte, a layer, a
    token, and the cache's bytes and products cost."""
    wide = _fitting(WIDE_HIDDEN, weights_bytes, bits, layers=2)
    narrow = _fitting(tuple(size for size in NARROW_HIDDEN if size < wide), weights_bytes, bits, layers=16)
    few = max(2, round(weights_bytes / _layer_bytes(wide, bits)))
    many = max(few + 4, round(weights_bytes / _layer_bytes(narrow, bits)))
    return (
        SyntheticShape("wide", wide, few),
        SyntheticShape("narrow", narrow, many, MANY_CACHES),
        SyntheticShape("grouped", narrow, round(0.75 * many), FEW_CACHES),
        SyntheticShape(LARGE, wide, 2 * few),
    )


def write_synthetic(shape: SyntheticShape, bits: int, directory: Path, *, seed: int = 0) -> Checkpoint:
    """A finished checkpoint in the existing empty `directory`, every matrix in `bits` (4 or 8), norms in float32."""
    spec, generator = shape.spec, np.random.default_rng(seed)
    records = []
    tensors = list(spec.tensors())
    plan = [entry for item in tensors for entry in _plan(item, bits)]
    with SafetensorsWriter(directory / "weights-00001-of-00001.safetensors", plan) as writer:
        for item in tensors:
            for entry in _plan(item, bits):
                writer.write(entry.name, _values(entry, bits, item, generator))
            scheme = _scheme(item, bits)
            digest = hashlib.sha256(f"synthetic {seed} {item.name} {item.shape}".encode()).hexdigest()
            records.append(TensorRecord(item.name, item.shape, scheme.kind, scheme.block, digest))
    _write_side_files(shape, directory / SOURCE_FOLDER)
    write_index(directory, records)
    return Checkpoint(directory, spec)


def pack_synthetic(checkpoint: Checkpoint, format_name: str, directory: Path) -> Path:
    """Write one container by the project's own writer; the file its engine opens. Raises MissingExtra without the package.

    Tokenizers are neither converted for OpenVINO nor compared with llama.cpp's: that takes longer than everything else, and random
    tokens are fed.
    """
    options = WriteOptions("synthetic", CONTEXT_LENGTH, NO_PROGRESS)
    if format_name == "openvino":
        from edgeport.export.formats.openvino import write_model

        path = directory / "openvino_model.xml"
        write_model(checkpoint, path, options.name)
        config = (checkpoint.source_directory / "config.json").read_bytes()
        (directory / "config.json").write_bytes(config)
        return path
    if format_name == "gguf":
        from edgeport.export.formats.gguf import write_file

        path = directory / "model.gguf"
        write_file(checkpoint, path, options)
        return path
    from edgeport.export.formats.table import get_format

    return get_format(format_name).write(checkpoint, directory, options)


def _fitting(sizes: tuple[int, ...], weights_bytes: int, bits: int, *, layers: int) -> int:
    """The widest size of which `layers` layers take no more than `weights_bytes`."""
    return next(
        (size for size in sizes if layers * _layer_bytes(size, bits) <= weights_bytes), SMALLEST_HIDDEN
    )


def _layer_bytes(hidden_size: int, bits: int) -> float:
    tensors = SyntheticShape("", hidden_size, 1).spec.layer_tensors(0)
    parameters = sum(item.shape[0] * item.shape[1] for item in tensors if item.role == "linear")
    return parameters * TensorScheme(_kind(bits), BLOCK).bits_per_weight / 8


def _kind(bits: int) -> Any:
    return f"int{bits}"


def _scheme(item: TensorSpec, bits: int) -> TensorScheme:
    return TensorScheme("f32") if len(item.shape) == 1 else TensorScheme(_kind(bits), BLOCK)


def _plan(item: TensorSpec, bits: int) -> Iterator[TensorPlan]:
    if len(item.shape) == 1:
        yield TensorPlan(item.name, "F32", item.shape)
        return
    rows, columns = item.shape
    yield TensorPlan(f"{item.name}.codes", "U8", (rows, columns * bits // 8))
    yield TensorPlan(f"{item.name}.scales", "F16", (rows, columns // BLOCK))


def _values(entry: TensorPlan, bits: int, item: TensorSpec, generator: np.random.Generator) -> Any:
    if entry.dtype == "F32":
        return np.ones(entry.shape, np.float32)
    if entry.dtype == "U8":
        count = entry.shape[0] * entry.shape[1]
        return np.frombuffer(generator.bytes(count), np.uint8).reshape(entry.shape)
    # Uniform codes have a standard deviation of 2**bits / sqrt(12): a power of two near 1 / sqrt(in_features) after scaling.
    scale = 2.0 ** np.round(np.log2(3.5 / 2**bits / np.sqrt(item.shape[1])))
    return np.full(entry.shape, scale, np.float16)


def _write_side_files(shape: SyntheticShape, folder: Path) -> None:
    folder.mkdir()
    documents = {
        "config.json": shape.config,
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {"bos_token": None, "eos_token": _SPECIAL[0], "pad_token": _SPECIAL[0]},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    vocabulary = {character: index for index, character in enumerate([*_byte_characters(), "".join(_MERGE)])}
    special = [
        {"id": _END + index, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index, text in enumerate(_SPECIAL)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary | {item["content"]: item["id"] for item in special},
            "merges": [list(_MERGE)],
        },
    }


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(hidden)) for byte in range(256)]
