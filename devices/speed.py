"""How fast a container will decode and read prompts on a device, with an interval and what it rests on.

Decoding reads every weight once per token, so  time per token = bytes read / effective bandwidth + fixed cost.
Effective bandwidth is what was measured on the device, or a share of the data sheet's figure. The fixed cost is thread
barriers or kernel launches, per layer. Prompts are bound by arithmetic: 2 operations per parameter and token.

Where the constants come from (published runs, file size x tokens/s against the data sheet):
CPU: Raspberry Pi 5 57-62 % (llama.cpp#26484), EPYC 9554 56-65 % (ahelpme.com, 14B Q4 and Q8), i9-13900K 70 % (llama.cpp#34).
GPU: two sizes of Llama-3-8B on one device separate bandwidth from the fixed cost: RTX 4090 about 100 % and 3.2 ms, A100 PCIe
52 % and 2.3 ms, H100 PCIe 70 % and 3.5 ms, over 32 layers (github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference).
Prompts: 22-88 % of the dense FP16 rate on GPUs (same source), 20-25 % of the INT8 rate on CPUs (Raspberry Pi 5 with
LFM2-350M, llama.cpp#19356; Ryzen 9 7950X with Llama-3.1-8B, ik_llama.cpp#54).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.devices.memory import kv_cache_bytes, parameter_counts
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import UsageError
from edgeport.manifest import ModelFacts
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of a peak rate: what to expect, and the range seen."""

    low: float
    expected: float
    high: float


MEASURED = Share(0.7, 0.9, 1.1)
CPU_DATA_SHEET = Share(0.4, 0.6, 0.8)
GPU_DATA_SHEET = Share(0.45, 0.75, 1.0)
CPU_PROMPT = Share(0.1, 0.22, 0.45)
GPU_PROMPT = Share(0.2, 0.45, 0.9)
CPU_SECONDS_PER_LAYER = 20e-6
GPU_SECONDS_PER_LAYER = 100e-6
CACHE_SPEEDUP = 4.0
"""How much faster than memory a last-level cache may be read; only widens the upper bound."""


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Tokens per second for one sequence. Prefill fields are None when nothing says how fast the device computes."""

    decode_tokens_per_s: float
    decode_low_tokens_per_s: float
    decode_high_tokens_per_s: float
    prefill_tokens_per_s: float | None
    prefill_low_tokens_per_s: float | None
    prefill_high_tokens_per_s: float | None
    bytes_per_token: int
    basis: str


def bytes_read_per_token(model: ModelFacts, weights_bytes: int, *, depth: int = 0, kv_bits: int = 16) -> int:
    """Bytes one decoded token reads: all weights, without an embedding table that only gives one row, and the KV cache.

    `depth` is how many tokens are in the cache.
    """
    counts = parameter_counts(model)
    table = 0
    if not model.tied_embeddings:
        stored = weights_bytes / max(1, model.parameters)
        table = round(counts.embedding * stored)
    cache = kv_cache_bytes(model, depth, bits=kv_bits) if depth else 0
    return max(1, weights_bytes - table) + cache


def estimate_speed(
    model: ModelFacts, weights_bytes: int, profile: DeviceProfile, *, depth: int = 0, on_gpu: bool = False
) -> SpeedEstimate:
    """Predicted speed of one sequence with `depth` tokens in its cache."""
    if weights_bytes <= 0:
        raise UsageError(f"cannot estimate the speed of {weights_bytes} bytes of weights")
    if on_gpu and profile.gpu is None:
        raise UsageError(f"device '{profile.name}' has no GPU")
    per_token = bytes_read_per_token(model, weights_bytes, depth=depth)
    bandwidth, share, source = _bandwidth(profile, on_gpu)
    fixed_seconds = model.layers * (GPU_SECONDS_PER_LAYER if on_gpu else CPU_SECONDS_PER_LAYER)

    def decode(fraction: float) -> float:
        return 1 / (per_token / (bandwidth * fraction) + fixed_seconds)

    high = share.high
    note = ""
    if not on_gpu and per_token < (profile.last_level_cache_bytes or 0):
        high *= CACHE_SPEEDUP
        note = ", weights fit in the last-level cache so that it may be faster"
    compute, prompt = _compute(profile, on_gpu)
    operations = 2 * (model.parameters - parameter_counts(model).embedding)
    prefill = [
        None if compute is None else compute * part / operations
        for part in (prompt.expected, prompt.low, prompt.high)
    ]
    return SpeedEstimate(
        decode(share.expected), decode(share.low), decode(high), prefill[0], prefill[1], prefill[2], per_token,
        f"{format_bytes(per_token)} per token over {share.expected:.0%} of {source}{note}",
    )  # fmt: skip


def _bandwidth(profile: DeviceProfile, on_gpu: bool) -> tuple[int, Share, str]:
    """(bytes per second, share of it that decoding reaches, what it is)."""
    if on_gpu and profile.gpu is not None:
        # With tensor parallelism every GPU reads its part of the weights at the same time.
        rate = profile.gpu.memory_bandwidth_bytes_per_s * profile.gpu.count
        low = GPU_DATA_SHEET.low / profile.gpu.count
        share = Share(low, GPU_DATA_SHEET.expected, GPU_DATA_SHEET.high)
        return rate, share, f"{rate / 1e9:.0f} GB/s (data sheet, {profile.gpu.count} x {profile.gpu.name})"
    if profile.sustained_bandwidth_bytes_per_s is not None:
        rate = profile.sustained_bandwidth_bytes_per_s
        return rate, MEASURED, f"{rate / 1e9:.1f} GB/s (measured)"
    rate = profile.memory_bandwidth_bytes_per_s
    return rate, CPU_DATA_SHEET, f"{rate / 1e9:.1f} GB/s (data sheet)"


def _compute(profile: DeviceProfile, on_gpu: bool) -> tuple[int | None, Share]:
    if on_gpu and profile.gpu is not None:
        rate = profile.gpu.fp16_flops_per_s
        return (None if rate is None else rate * profile.gpu.count), GPU_PROMPT
    return profile.int8_ops_per_s, CPU_PROMPT
