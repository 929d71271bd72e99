"""How much memory one container needs in its engine, term by term, from the shape of the model alone.

The formulas describe our own sessions (edgeport.runtimes). Beside them is what was measured: the largest resident size
of a process that opens the container, reads a prompt that fills the context and decodes 16 tokens, on Linux x86-64 with
INT4 linears and INT8 embeddings of the shapes of SmolLM2-135M (context 1024 and 4096) and Qwen2.5-0.5B (2048).

llama.cpp: KV cache padded to 256 cells; compute buffer 4 * (rows * n_vocab + n_ubatch * 2 * n_embd) bytes, with rows the
    logits rows a batch may ask for (with rows = n_ubatch it is exact against the engine's own log for both shapes).
    Weights are read, not mapped, so that the repacked copy replaces the original. Measured within 3 %.
onnxruntime: MatMulNBits holds codes with a float32 scale and block sum per block, a tied head is a copy beside the
    embedding; the KV cache of our graph is float32; float weights of 16 bits are widened. Measured within 3 %.
OpenVINO: a repacked copy of the weights beside the mapped file, whose pages the kernel may drop again; a cache that is
    reallocated while it grows; three copies of a chunk's logits at the peak. Measured within 3 %.
reference: every weight in float32. Measured within 3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.kv_cache import kv_cache_bytes
from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.devices.weights import WeightsEstimate
from edgeport.errors import UsageError

MIB = 2**20
BYTES_PER_BLOCK = 4
"""What onnxruntime's repacked weights take more than the file, per block of 32 weights."""
FLOAT_BITS = 12
"""Containers with more bits per weight than this hold floats."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Constants of one engine.

    copies: bytes it allocates per byte of weights in the file. maps_file: the file stays mapped beside them.
    chunk_tokens: prompt tokens computed at once. logits_rows: float32 rows of the vocabulary alive at the peak.
    overhead_bytes: Python with the engine, without a model; bytes_per_token: the vocabulary inside the engine.
    """

    overhead_bytes: int
    copies: float = 1.0
    maps_file: bool = False
    chunk_tokens: int = 512
    logits_rows: int = 512
    bytes_per_token: int = 0


ENGINES: Mapping[str, EngineMemory] = {
    "llama.cpp": EngineMemory(45 * MIB, logits_rows=64, bytes_per_token=200),
    "onnxruntime": EngineMemory(64 * MIB, chunk_tokens=256, logits_rows=2 * 256),
    "openvino": EngineMemory(95 * MIB, copies=1.2, maps_file=True, chunk_tokens=256, logits_rows=3 * 256),
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
    size_bytes = weights if isinstance(weights, int) else weights.size_bytes
    context_length = workload.context_length
    if size_bytes <= 0 or context_length <= 0 or workload.batch <= 0:
        raise UsageError(
            f"cannot estimate {size_bytes} bytes of weights with {workload.batch} contexts of {context_length}"
        )
    constants = ENGINES[engine]
    return MemoryEstimate(
        format=ENGINE_FORMATS[engine],
        engine=engine,
        context_length=context_length,
        weights_bytes=_resident_weights(shape, size_bytes, engine),
        kv_cache_bytes=kv_cache_bytes(
            shape, engine, context_length, batch=workload.batch, kv_bits=workload.kv_bits
        ),
        compute_bytes=compute_bytes(
            shape, chunk_tokens=min(constants.chunk_tokens, context_length), logits_rows=constants.logits_rows
        ),
        overhead_bytes=constants.overhead_bytes + constants.bytes_per_token * shape.vocab_size,
        mapped_bytes=size_bytes if constants.maps_file else 0,
        basis=f"{engine}: prompts in chunks of {constants.chunk_tokens} tokens",
    )


def compute_bytes(shape: ModelShape, *, chunk_tokens: int, logits_rows: int) -> int:
    """Activations in float32: logits and the residual stream at the end, or the widest layer, whichever is more."""
    end = logits_rows * shape.vocab_size + 2 * chunk_tokens * shape.hidden_size
    layer = chunk_tokens * (3 * shape.hidden_size + 2 * shape.intermediate_size)
    return 4 * max(end, layer)


def engine_for(profile: DeviceProfile, format_name: str) -> str:
    """The engine that opens `format_name` on this device, or the format's usual one when the profile has none."""
    if format_name not in FALLBACK_ENGINES:
        raise UsageError(f"unknown format '{format_name}'", hint=f"formats: {', '.join(FALLBACK_ENGINES)}")
    return profile.engine_for(format_name) or FALLBACK_ENGINES[format_name]


def _resident_weights(shape: ModelShape, size_bytes: int, engine: str) -> int:
    """The engine's own copy of the weights, in the layout its kernels want."""
    if engine == "reference":
        return 4 * shape.parameters
    if engine != "onnxruntime":
        return round(size_bytes * ENGINES[engine].copies)
    if 8 * size_bytes / shape.parameters > FLOAT_BITS:
        return 4 * shape.parameters
    tied_head = shape.parameters_of(["embedding"]) if shape.tied_embeddings else 0
    return size_bytes + tied_head + BYTES_PER_BLOCK * shape.parameters // 32
