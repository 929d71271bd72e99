"""Bytes an engine allocates for what it remembers of its sequences: keys, values and recurrent states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.shape import CacheShape, ModelShape
from edgeport.errors import UsageError

LLAMA_CPP_WINDOWS = ("gemma2", "gemma3_text", "gpt_oss", "cohere2")
"""Families whose sliding windows llama.cpp applies; for others it keeps the whole context (Mistral 0.1, Phi-3, Qwen2)."""
CAPPED_FAMILIES = ("gemma2",)
"""Families whose scores are soft-capped: OpenVINO has no such attention, edgeport's graph spells it out."""
OPENVINO_CAPPED_BITS = 136
"""17 bytes a value, whatever is asked: the state, its rows by beam_idx and a lengthened copy, for each layer. Growth of the resident
memory from 2,000 to 8,000 tokens, 4 layers of 4 heads of 256 (2026.4)."""
LATENT_FAMILIES = ("deepseek_v2", "deepseek_v3")


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How one engine stores a cache.

    bits: by the bits asked for, what a value really takes: scales included. default_bits: when nothing is asked.
    padding: tokens are rounded up to it. window_slack: tokens a sliding layer keeps beyond its window. windows: whether
    sliding layers keep less at all.
    """

    bits: Mapping[int, float]
    default_bits: int
    padding: int = 1
    window_slack: int = 0
    windows: bool = True


LLAMA_CPP = CacheRules({32: 32, 16: 16, 8: 8.5, 4: 4.5}, 16, padding=256, window_slack=512)
"""f32, f16, q8_0, q4_0. A sliding layer keeps its window and one micro-batch (llama-kv-cache-iswa.cpp)."""
RULES: Mapping[str, CacheRules] = {
    "llama.cpp": LLAMA_CPP,
    "onnxruntime": CacheRules({32: 32}, 32, windows=False),
    "openvino": CacheRules({32: 32, 16: 16}, 16, padding=32, windows=False),
    "vllm": CacheRules({16: 16, 8: 8}, 16, padding=16),
    "transformers": CacheRules({32: 32, 16: 16}, 16),
    "reference": CacheRules({32: 32}, 32, windows=False),
}


def kv_bits_of(engine: str) -> tuple[int, ...]:
    """The precisions an engine can keep its cache in, the finest first."""
    return tuple(RULES[engine].bits)


def kv_cache_bytes(
    shape: ModelShape, engine: str, context_length: int, *, batch: int = 1, kv_bits: int | None = None
) -> int:
    """What `engine` allocates for `batch` sequences of `context_length` tokens each. Raises UsageError for unknown bits."""
    rules = RULES[engine]
    asked = rules.default_bits if kv_bits is None else kv_bits
    if asked not in rules.bits:
        allowed = ", ".join(map(str, rules.bits))
        raise UsageError(f"{engine} keeps no cache of {asked} bits", hint=f"it can be {allowed} bits")
    capped = engine == "openvino" and shape.family in CAPPED_FAMILIES
    stored_bits = OPENVINO_CAPPED_BITS if capped else rules.bits[asked]
    slides = rules.windows and (engine != "llama.cpp" or shape.family in LLAMA_CPP_WINDOWS)
    total = 0.0
    for cache in shape.caches:
        cells = cached_tokens(cache, rules, context_length, slides=slides)
        total += cells * cache.values_per_token * stored_bits / 8 + cache.state_bytes
    return round(batch * total)


def cached_tokens(cache: CacheShape, rules: CacheRules, context_length: int, *, slides: bool) -> int:
    tokens = context_length
    if slides and cache.window is not None:
        tokens = min(context_length, cache.window + rules.window_slack)
    return -(-tokens // rules.padding) * rules.padding
