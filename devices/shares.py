"""What part of a data sheet's figures engines reach, by class of processor: constants with the published runs they come from.

Only used where nobody measured the device. A run named here made the constant, so it tests no prediction. Each run is
file size x tokens/s against the data sheet; two models on one device separate the bandwidth from the cost per layer.
Llama-3-8B is 4.92 GB in Q4_K_M and 16.07 GB in F16, with 32 layers; Phi-4 14B is 9.05 and 15.6 GB, with 40.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeport.devices.profile import DeviceProfile, GpuPart


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of a peak rate: what to expect, and the range seen."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, slots=True)
class SpeedClass:
    """decode: share of the memory bandwidth. prompt: share of the peak arithmetic rate (INT8 on processors, FP16 on GPUs).

    seconds_per_layer: `low` belongs to the lower speed, so that it is the longest.
    """

    name: str
    decode: Share
    prompt: Share
    seconds_per_layer: Share


MEASURED = Share(0.7, 0.9, 1.1)
"""Of a measured read bandwidth: decoding also computes, and has other processes beside it."""

SECONDS_PER_LAYER_AND_CORE = 4.2e-6
"""Threads wait for each other several times a layer, the longer the more they are. EPYC 9554, Phi-4 Q4_K_M 28.7 and Q8_0 19.2
tokens/s (ahelpme.com): 378 GB/s and 10.8 ms per token, 40 layers, 64 cores."""

BYTES_PER_S_AND_CORE = Share(3e9, 7e9, 14e9)
"""What a core asks of memory while it decodes; bounds machines whose memory is faster than that.

16 cores of Strix Halo, Llama-2-7B Q4_0 28.6 tokens/s: 6.9 GB/s each (llama.cpp#13565). 4 cores of a Ryzen 9 7950X: 13 to 16
(ik_llama.cpp#54)."""
NO_TIME = Share(0.0, 0.0, 0.0)
# Prompts reach 20-25 % of the INT8 rate of processors: Raspberry Pi 5 with LFM2-350M (llama.cpp#19356), Ryzen 9 7950X with
# Llama-3.1-8B (ik_llama.cpp#54).
CPU_PROMPT = Share(0.1, 0.22, 0.45)
# Raspberry Pi 5, five quantizations of one model: 57-62 % (llama.cpp#26484).
ARM_BOARD = SpeedClass("Arm board", Share(0.45, 0.6, 0.75), CPU_PROMPT, NO_TIME)
# Raspberry Pi 4, Llama-3.2-3B Q4_K_M 1.6 tokens/s (geerlingguy/ai-benchmarks): 25 %. Without dot products of bytes the arithmetic of
# INT4 weights takes longer than reading them.
ARM_WITHOUT_DOT_PRODUCTS = SpeedClass(
    "Arm board without dot products", Share(0.15, 0.25, 0.4), CPU_PROMPT, NO_TIME
)
# i9-13900K 70 % (llama.cpp#34), Ryzen 9 7950X 63-78 % (ik_llama.cpp#54), EPYC 9554 82 % beside the cost per layer.
PROCESSOR = SpeedClass("processor", Share(0.4, 0.65, 0.9), CPU_PROMPT, NO_TIME)

# RTX 4090, 8B Q4_K_M 127.7 and F16 54.3 tokens/s: all of the bandwidth and 3.2 ms, 100 us a layer. Prompts: 88 % of the FP16 rate.
# Newer builds need less: TinyLlama 762 tokens/s on the same card is at most 29 us a layer (geerlingguy/ai-benchmarks#43). The
# expected cost lies between the two.
# A100 PCIe 138.3 and 54.6: 52 % and 2.3 ms; H100 PCIe 144.5 and 67.8: 70 % and 3.5 ms. Prompts 39 and 22 %.
# All three: llama.cpp, github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference
GRAPHICS_CARD = SpeedClass(
    "graphics card", Share(0.7, 0.95, 1.05), Share(0.3, 0.7, 0.95), Share(100e-6, 50e-6, 25e-6)
)
HBM_CARD = SpeedClass("HBM card", Share(0.45, 0.6, 0.85), Share(0.15, 0.3, 0.6), Share(110e-6, 80e-6, 25e-6))
# A100 40 GB, Llama-3.1-8B in BF16: 77 % (johnmusgrave.com); AGX Orin, 1B to 3B in BF16: 78-80 %, Qwen3-0.6B 68 %
# (embedl/Edge-Inference-Benchmarks). Kernels are launched as one recorded graph.
VLLM = SpeedClass("GPU with vLLM", Share(0.6, 0.8, 0.95), Share(0.2, 0.45, 0.9), Share(90e-6, 45e-6, 20e-6))
# M1 Max 42 %, M3 Max 62 %, M2 Ultra 47 % (XiongjieDai), M4 Pro 91 % and 1.4 ms, GB10 79 % (geerlingguy/ai-benchmarks).
SHARED_MEMORY = SpeedClass(
    "GPU on shared memory", Share(0.35, 0.7, 0.95), Share(0.15, 0.45, 0.9), Share(100e-6, 50e-6, 25e-6)
)

HBM_NAMES = (
    "A100", "A800", "H100", "H200", "H800", "GH200", "B100", "B200", "GB200", "V100", "P100", "MI2", "MI3",
)  # fmt: skip

ALL_REDUCE_SECONDS = Share(20e-6, 20e-6, 5e-6)
"""Of a message of a few KiB inside a recorded graph: NCCL 19-22 us, one-shot kernels 4-7 us, 4 GPUs
(haohervchb/sglang-V100#2). low: the slowest device."""
ALL_REDUCES_PER_LAYER = 2
"""After attention and after the feed-forward part. Megatron-LM, arXiv:1909.08053."""
SECONDS_PER_HOP = 0.24e-3
"""From one GPU of a layer split to the next: 8B Q4_K_M on one, two and four RTX 4090, 127.7, 122.6 and 117.6 tokens/s
(XiongjieDai)."""
UNPUBLISHED = 0.75
"""For engines whose speed nobody published beside the data sheet of such a processor: the lower bounds are multiplied by it."""


def cpu_class(profile: DeviceProfile) -> SpeedClass:
    """The class of the processor; the cost per layer grows with its cores."""
    kind = PROCESSOR
    if profile.architecture == "aarch64" and "i8mm" not in profile.isa and profile.cores <= 8:
        has_dot_products = "dotprod" in profile.isa or not profile.isa
        kind = ARM_BOARD if has_dot_products else ARM_WITHOUT_DOT_PRODUCTS
    each = SECONDS_PER_LAYER_AND_CORE * profile.cores
    return replace(kind, seconds_per_layer=Share(each, each, each))


def gpu_class(gpu: GpuPart, engine: str) -> SpeedClass:
    if engine == "vllm":
        return VLLM
    if gpu.shares_ram:
        return SHARED_MEMORY
    return HBM_CARD if any(name in gpu.name for name in HBM_NAMES) else GRAPHICS_CARD
