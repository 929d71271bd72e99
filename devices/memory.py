"""How much memory one container needs in its engine, term by term, from the shape of the model alone.

llama.cpp: KV cache per layer padded to 256 cells, compute buffer 4 * n_ubatch * (n_vocab + 2 * n_embd) bytes (seen exact
against the engine's own log for two models with large vocabularies; the logits of a whole micro-batch dominate), output
buffer 4 * n_vocab. Weights are read, not mapped, so that the repacked copy replaces the original.
onnxruntime: MatMulNBits repacks each weight into its own layout and widens the block sums, 1.45 times the quantized bytes
seen on x86 (16 matrices of 4096 x 4096, block 32, accuracy_level 4); the KV cache of our graph is float32.
OpenVINO: the CPU plugin keeps a repacked copy of every weight beside the mapped file, 1.4 times the bytes and the file's
pages seen on x86 with the same matrices; the kernel may drop those pages, so they count for the peak, not for fitting.
Grouped-query attention is exact everywhere: the cache has kv_heads, not heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile
from edgeport.errors import UsageError
from edgeport.manifest import ModelFacts

MIB = 2**20
PROMPT_BATCH = 512
"""Prompt tokens computed at once: llama.cpp's n_ubatch, and what our sessions feed the other engines."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Constants of one engine. `copies`: bytes the engine allocates per byte of weights in the file."""

    kv_bits: int
    kv_padding: int
    copies: float
    maps_file: bool
    overhead_bytes: int


# Overhead: a Python process with the engine, tokenizer and session, without model (resident size seen on Linux x86-64).
ENGINES: Mapping[str, EngineMemory] = {
    "llama.cpp": EngineMemory(
        kv_bits=16, kv_padding=256, copies=1.0, maps_file=False, overhead_bytes=76 * MIB
    ),
    "onnxruntime": EngineMemory(
        kv_bits=32, kv_padding=1, copies=1.45, maps_file=False, overhead_bytes=70 * MIB
    ),
    "openvino": EngineMemory(kv_bits=16, kv_padding=1, copies=1.4, maps_file=True, overhead_bytes=90 * MIB),
    "vllm": EngineMemory(kv_bits=16, kv_padding=16, copies=1.0, maps_file=False, overhead_bytes=1024 * MIB),
    "transformers": EngineMemory(
        kv_bits=16, kv_padding=1, copies=1.0, maps_file=False, overhead_bytes=400 * MIB
    ),
    "reference": EngineMemory(kv_bits=32, kv_padding=1, copies=0.0, maps_file=True, overhead_bytes=60 * MIB),
}
FALLBACK_ENGINES: Mapping[str, str] = {
    "gguf": "llama.cpp",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "safetensors": "reference",
}
"""Who opens a format on a device whose profile names no engine for it."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes one running container takes, by cause.

    weights_bytes: the engine's own copy, repacked where it repacks. mapped_bytes: pages of the file that stay mapped
    beside it and that the kernel may drop. `engine` is how it was computed, `basis` says it in words.
    """

    format: str
    engine: str
    context_length: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    output_bytes: int
    overhead_bytes: int
    mapped_bytes: int
    basis: str

    @property
    def required_bytes(self) -> int:
        """What must be free: everything except pages that can be read again from the file."""
        fixed = self.weights_bytes + self.compute_bytes + self.output_bytes + self.overhead_bytes
        return fixed + self.kv_cache_bytes

    @property
    def peak_bytes(self) -> int:
        """The largest resident size to expect when memory is plentiful."""
        return self.required_bytes + self.mapped_bytes


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Parameters by what decides their storage; `head` is 0 when it is the embedding."""

    linear: int
    embedding: int
    head: int
    other: int


def parameter_counts(model: ModelFacts) -> ParameterCounts:
    """Split the parameters of a decoder with grouped-query attention and a gated feed-forward part."""
    attention = model.hidden_size * model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    linear = model.layers * (attention + 3 * model.hidden_size * model.intermediate_size)
    embedding = model.vocab_size * model.hidden_size
    head = 0 if model.tied_embeddings else embedding
    return ParameterCounts(linear, embedding, head, max(0, model.parameters - linear - embedding - head))


def predict_weights_bytes(
    model: ModelFacts, *, linear_bits: float, embedding_bits: float, head_bits: float
) -> int:
    """Bytes of the weights in one container; bits include scales (`TensorScheme.bits_per_weight`), the rest is float32."""
    counts = parameter_counts(model)
    bits = counts.linear * linear_bits + counts.embedding * embedding_bits + counts.head * head_bits
    return round(bits / 8) + 4 * counts.other


def kv_cache_bytes(model: ModelFacts, context_length: int, *, bits: int = 16, padding: int = 1) -> int:
    """Keys and values of all layers for `context_length` tokens, rounded up to `padding` cells.

    Eight bits and fewer carry one 16-bit scale per 32 values, as llama.cpp's q8_0 and q4_0 caches do.
    """
    cells = -(-context_length // padding) * padding
    stored_bits = bits + (0.5 if bits <= 8 else 0.0)
    return round(cells * model.kv_bytes_per_token * stored_bits / 16)


def estimate_memory(
    model: ModelFacts,
    weights_bytes: int,
    engine: str,
    context_length: int,
    *,
    kv_bits: int | None = None,
    prompt_batch: int = PROMPT_BATCH,
) -> MemoryEstimate:
    """Memory of one container of `weights_bytes` run by `engine` with a cache for `context_length` tokens."""
    if engine not in ENGINES:
        raise UsageError(f"no memory model for engine '{engine}'", hint=f"engines: {', '.join(ENGINES)}")
    if weights_bytes <= 0 or context_length <= 0:
        raise UsageError(
            f"cannot estimate {weights_bytes} bytes of weights with a context of {context_length}"
        )
    constants = ENGINES[engine]
    bits = kv_bits or constants.kv_bits
    batch = min(prompt_batch, context_length)
    copied = round(weights_bytes * constants.copies)
    if engine == "reference":
        copied = 4 * model.parameters
    return MemoryEstimate(
        format=ENGINE_FORMATS[engine],
        engine=engine,
        context_length=context_length,
        weights_bytes=copied,
        kv_cache_bytes=kv_cache_bytes(model, context_length, bits=bits, padding=constants.kv_padding),
        compute_bytes=_compute_bytes(model, engine, batch),
        output_bytes=4 * model.vocab_size,
        overhead_bytes=constants.overhead_bytes,
        mapped_bytes=weights_bytes if constants.maps_file else 0,
        basis=_basis(engine, constants, bits, batch),
    )


def engine_for(profile: DeviceProfile, format_name: str) -> str:
    """The engine that opens `format_name` on this device, or the format's usual one when the profile has none."""
    if format_name not in FALLBACK_ENGINES:
        raise UsageError(f"unknown format '{format_name}'", hint=f"formats: {', '.join(FALLBACK_ENGINES)}")
    return profile.engine_for(format_name) or FALLBACK_ENGINES[format_name]


def _compute_bytes(model: ModelFacts, engine: str, batch: int) -> int:
    """Activations of a prompt batch in float32: the logits, or the widest layer when the vocabulary is small."""
    if engine == "llama.cpp":
        widest = max(
            model.vocab_size + 2 * model.hidden_size, 3 * model.hidden_size + 2 * model.intermediate_size
        )
        return 4 * batch * widest
    return 4 * batch * (model.vocab_size + 4 * model.hidden_size + 3 * model.intermediate_size)


def _basis(engine: str, constants: EngineMemory, kv_bits: int, batch: int) -> str:
    if engine == "reference":
        weights = "weights as float32 beside the mapped file"
    elif constants.copies == 1.0:
        weights = "weights once"
    else:
        weights = f"weights x {constants.copies:g} (repacked copy)"
    return f"{engine}: {weights}, {kv_bits}-bit KV cache, prompts in batches of {batch}"
