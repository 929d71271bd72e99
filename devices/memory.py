"""How much memory one container needs in its engine, term by term, from the shape of the model alone.

The formulas describe our own sessions (edgeport.runtimes); docs/memory.md derives them and lists what was measured: the largest
resident size of a process that opens a container and reads a prompt that fills the context.

llama.cpp: weights are read, not mapped, so that the repacked copy replaces the original; a compute buffer of
    4 * (rows * n_vocab + n_ubatch * 2 * n_embd) bytes, with rows the logits rows a batch may ask for.
onnxruntime: MatMulNBits keeps three float32 values per block (the scale before and after repacking, and the sum of the codes); a
    tied head is a copy beside the embedding, whose rows are read from the mapped file; rotary tables for the whole context the
    model was made for. Float weights of 16 bits are widened.
OpenVINO: a repacked copy of the weights beside the mapped file.
reference: every weight in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.kv_cache import kv_cache_bytes
from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile
from edgeport.devices.shape import ModelShape, Role
from edgeport.devices.weights import WeightsEstimate
from edgeport.errors import UsageError

MIB = 2**20
BLOCK = 32
FAULT_AROUND_BYTES = 64 << 10
"""Linux' default: https://docs.kernel.org/admin-guide/mm/ (fault_around_bytes)."""
FLOAT_BITS = 12
"""Containers with more bits per weight than this hold floats."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Constants of one engine.

    overhead_bytes: Python with the engine and an empty session. bytes_per_token: the vocabulary inside the engine.
    copies: bytes it allocates per byte of weights in the file. bytes_per_block: what it keeps more per block of 32 weights.
    mapped_share: of the file, what stays mapped beside them. chunk_tokens: prompt tokens computed at once. logits_rows: rows of
    the vocabulary a chunk has.
    """

    overhead_bytes: int
    copies: float = 1.0
    bytes_per_block: int = 0
    mapped_share: float = 0.0
    chunk_tokens: int = 512
    logits_rows: int = 512
    bytes_per_token: int = 0


ENGINES: Mapping[str, EngineMemory] = {
    "llama.cpp": EngineMemory(45 * MIB, logits_rows=64, bytes_per_token=200),
    "onnxruntime": EngineMemory(72 * MIB, bytes_per_block=10, chunk_tokens=256, logits_rows=1),
    "openvino": EngineMemory(165 * MIB, copies=1.2, mapped_share=0.9, chunk_tokens=256, logits_rows=1),
    "vllm": EngineMemory(1024 * MIB, logits_rows=1),
    "transformers": EngineMemory(400 * MIB),
    "reference": EngineMemory(50 * MIB, chunk_tokens=64, logits_rows=64),
}
FALLBACK_ENGINES: Mapping[str, str] = {
    "gguf": "llama.cpp",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "safetensors": "reference",
}
"""Who opens a format on a device whose profile names no engine for it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a running model. context_length: tokens of each of `batch` sequences. kv_bits: None for the engine's own."""

    context_length: int
    batch: int = 1
    kv_bits: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes one running container takes, by cause.

    weights_bytes: the engine's own copy, repacked where it repacks. mapped_bytes: pages of the file that stay mapped
    beside it and that the kernel may drop. kv_cache_bytes: recurrent states too.
    """

    format: str
    engine: str
    context_length: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    overhead_bytes: int
    mapped_bytes: int
    basis: str

    @property
    def required_bytes(self) -> int:
        """What must be free: everything except pages that can be read again from the file."""
        fixed = self.weights_bytes + self.compute_bytes + self.overhead_bytes
        return fixed + self.kv_cache_bytes

    @property
    def peak_bytes(self) -> int:
        """The largest resident size to expect when memory is plentiful."""
        return self.required_bytes + self.mapped_bytes


def estimate_memory(
    shape: ModelShape, weights: WeightsEstimate | int, engine: str, workload: Workload
) -> MemoryEstimate:
    """Memory of one container run by `engine`. weights: an int is a file's size, taken as of equal bits everywhere.

    Raises UsageError for an unknown engine, cache bits the engine does not have, and sizes that are not positive.
    """
    if engine not in ENGINES:
        raise UsageError(f"no memory model for engine '{engine}'", hint=f"engines: {', '.join(ENGINES)}")
    parts = even_weights(shape, weights) if isinstance(weights, int) else weights
    context_length = workload.context_length
    if parts.size_bytes <= 0 or context_length <= 0 or workload.batch <= 0:
        raise UsageError(
            f"cannot estimate {parts.size_bytes} bytes of weights with {workload.batch} contexts of {context_length}"
        )
    constants = ENGINES[engine]
    cache = kv_cache_bytes(shape, engine, context_length, batch=workload.batch, kv_bits=workload.kv_bits)
    computing = _compute_bytes(shape, engine, context_length)
    mapped = _mapped_bytes(parts, engine, context_length)
    # At load there is no cache yet, and the head lies mapped beside its repacked copy.
    loading = _mapped_head_bytes(shape, parts) - cache - computing if engine == "onnxruntime" else 0
    return MemoryEstimate(
        format=ENGINE_FORMATS[engine],
        engine=engine,
        context_length=context_length,
        weights_bytes=_resident_weights(shape, parts, engine),
        kv_cache_bytes=cache,
        compute_bytes=computing,
        overhead_bytes=constants.overhead_bytes + constants.bytes_per_token * shape.vocab_size,
        mapped_bytes=max(mapped, loading),
        basis=f"{engine}: prompts in chunks of {constants.chunk_tokens} tokens",
    )


def compute_bytes(shape: ModelShape, *, chunk_tokens: int, logits_rows: int) -> int:
    """Activations in float32: logits and the residual stream at the end, or the widest layer, whichever is more."""
    end = logits_rows * shape.vocab_size + 2 * chunk_tokens * shape.hidden_size
    return 4 * max(end, _layer_values(shape, chunk_tokens))


def even_weights(shape: ModelShape, size_bytes: int) -> WeightsEstimate:
    """`size_bytes` divided among the tensors as if all had the same bits."""
    share = size_bytes / max(1, shape.parameters)
    embedding = round(share * shape.parameters_of(["embedding"]))
    head = round(share * shape.parameters_of(["head"]))
    other = round(share * shape.parameters_of(["norm", "bias"]))
    return WeightsEstimate(
        format="",
        precision="",
        linear_bytes=size_bytes - embedding - head - other,
        embedding_bytes=embedding,
        head_bytes=head,
        other_bytes=other,
        metadata_bytes=0,
        parameters=shape.parameters,
    )


def engine_for(profile: DeviceProfile, format_name: str) -> str:
    """The engine that opens `format_name` on this device, or the format's usual one when the profile has none."""
    if format_name not in FALLBACK_ENGINES:
        raise UsageError(f"unknown format '{format_name}'", hint=f"formats: {', '.join(FALLBACK_ENGINES)}")
    return profile.engine_for(format_name) or FALLBACK_ENGINES[format_name]


def _compute_bytes(shape: ModelShape, engine: str, context_length: int) -> int:
    constants = ENGINES[engine]
    chunk = min(constants.chunk_tokens, context_length)
    rows = min(constants.logits_rows, chunk)
    if engine != "onnxruntime":
        return compute_bytes(shape, chunk_tokens=chunk, logits_rows=rows)
    rotary_tables = 4 * shape.context_length * shape.head_dim
    rows = min(rows, context_length)
    return 4 * (rows * shape.vocab_size + _layer_values(shape, chunk)) + rotary_tables


def _layer_values(shape: ModelShape, tokens: int) -> int:
    """Values of a layer's widest point: the feed-forward part's two halves and three of the residual stream."""
    return tokens * (3 * shape.hidden_size + 2 * shape.intermediate_size)


def _resident_weights(shape: ModelShape, weights: WeightsEstimate, engine: str) -> int:
    """The engine's own copy of the weights, in the layout its kernels want."""
    if engine == "reference" or (engine == "onnxruntime" and weights.bits_per_weight > FLOAT_BITS):
        return 4 * shape.parameters
    constants = ENGINES[engine]
    if engine != "onnxruntime":
        return round(weights.size_bytes * constants.copies)
    multiplied = weights.linear_bytes + weights.other_bytes
    multiplied += weights.embedding_bytes if shape.tied_embeddings else weights.head_bytes
    table: Role = "embedding" if shape.tied_embeddings else "head"
    blocks = shape.parameters_of(["linear", "expert", table]) // BLOCK
    return multiplied + constants.bytes_per_block * blocks


def _mapped_bytes(weights: WeightsEstimate, engine: str, context_length: int) -> int:
    """onnxruntime reads rows of the embedding from the mapped file. The kernel maps at least the 64 KiB around each, and up to
    the whole table where the file was not in the page cache: both were seen, and the middle is taken."""
    if engine != "onnxruntime":
        return round(weights.size_bytes * ENGINES[engine].mapped_share)
    table = weights.embedding_bytes
    if weights.bits_per_weight > FLOAT_BITS or not table:
        return 0
    touched = table * (1 - math.exp(-context_length * FAULT_AROUND_BYTES / table))
    return round((touched + table) / 2)


def _mapped_head_bytes(shape: ModelShape, weights: WeightsEstimate) -> int:
    if weights.bits_per_weight > FLOAT_BITS:
        return 0
    return weights.embedding_bytes if shape.tied_embeddings else weights.head_bytes
