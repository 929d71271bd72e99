"""What is known of one device: memory, bandwidth, cores, instruction sets, engines. Data only.

Sizes are bytes and rates are per second, whatever unit a profile file used; `profile_file` reads and writes the files.
Fields that nobody published are None, and whatever would need them says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FORMATS = ("gguf", "onnx", "openvino", "safetensors")
ENGINE_FORMATS: Mapping[str, str] = {
    "llama.cpp": "gguf",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "vllm": "safetensors",
    "transformers": "safetensors",
    "reference": "safetensors",
}
KINDS = ("board", "phone", "laptop", "desktop", "cpu-server", "gpu", "multi-gpu")
"""What a device is, for lists: the smallest first. The tier says which models it is for."""
GPU_ENGINES = ("vllm", "transformers", "llama.cpp")
"""Engines that keep weights and KV cache in the memory of a GPU where there is one."""
GPU_USABLE_SHARE = 0.9
"""vLLM's default gpu_memory_utilization; the rest is the driver's, the display's and fragmentation."""
ARCHITECTURES = ("x86_64", "aarch64")
X86_FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
ARM_FLAGS = ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme")
ISA_FLAGS = X86_FLAGS + ARM_FLAGS


@dataclass(frozen=True, slots=True)
class GpuPart:
    """The accelerators of a device; figures are of one of them, `count` says how many there are.

    shares_ram: its memory is the device's RAM, so that what the model takes there is gone for the processor; `memory_bytes` is
    then at most `ram_bytes`. usable_share: the part of `memory_bytes` a model may take.
    """

    name: str
    count: int
    memory_bytes: int
    memory_bandwidth_bytes_per_s: int
    interconnect: str | None = None
    interconnect_bytes_per_s: int | None = None
    fp16_flops_per_s: int | None = None
    int8_ops_per_s: int | None = None
    shares_ram: bool = False
    usable_share: float = GPU_USABLE_SHARE


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the device's kernels accept; False and None mean no restriction."""

    symmetric_only: bool = False
    positive_scales: bool = False
    block: int | None = None


@dataclass(frozen=True, slots=True)
class KernelRates:
    """What one engine was measured to reach on the device with weights of `bits` (4, 8 or 16).

    Time per decoded token = weights read / decode_bandwidth + KV cache read / cache_bandwidth + products of attention /
    decode_attention_ops + layers * seconds_per_layer + seconds_per_token; prompts: two operations per parameter and token at
    prefill_ops_per_s, and the products of attention at attention_ops_per_s. Of the cache's two costs, None for both: it is read
    as the weights are; for one: the other is all it costs. attention_ops_per_s None: as the weights. source: the command or
    the link it comes from.
    """

    engine: str
    bits: int
    decode_bandwidth_bytes_per_s: int
    seconds_per_layer: float = 0.0
    seconds_per_token: float = 0.0
    prefill_ops_per_s: int | None = None
    cache_bandwidth_bytes_per_s: int | None = None
    attention_ops_per_s: int | None = None
    decode_attention_ops_per_s: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class PublishedSpeed:
    """A figure somebody published for the device, to check predictions with.

    model: a name of the known models. scheme: the file's type in the publisher's words (`Q4_K_M`). source: a link.
    on_gpu: on the device's GPU, by default on its processor. used: a field of the profile or a constant of `speed` was
    derived from it, so that it tests no prediction.
    """

    model: str
    engine: str
    scheme: str
    source: str
    decode_tokens_per_s: float | None = None
    prefill_tokens_per_s: float | None = None
    on_gpu: bool = False
    used: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One device, or the tier of devices it stands for.

    kind: one of KINDS. tier: the hardware class of `tiers.TIERS` it belongs to.
    usable_ram_bytes: what is left for a model after the operating system and its services.
    memory_bandwidth_bytes_per_s: the data sheet's figure for the CPU's memory.
    sustained_bandwidth_bytes_per_s: what decoding really reaches, when somebody measured it.
    cores: physical cores. formats: what an export writes when the user names none.
    """

    name: str
    kind: str
    tier: str
    description: str
    ram_bytes: int
    usable_ram_bytes: int
    memory_bandwidth_bytes_per_s: int
    cores: int
    engines: tuple[str, ...]
    formats: tuple[str, ...]
    recipe: str
    context_length: int
    architecture: str | None = None
    isa: tuple[str, ...] = ()
    sustained_bandwidth_bytes_per_s: int | None = None
    last_level_cache_bytes: int | None = None
    int8_ops_per_s: int | None = None
    power_watts: float | None = None
    gpu: GpuPart | None = None
    constraints: Constraints = Constraints()
    kernels: tuple[KernelRates, ...] = ()
    published: tuple[PublishedSpeed, ...] = ()

    def engine_for(self, format_name: str) -> str | None:
        """The preferred engine that opens this format on the device, or None when the device has none."""
        return next((engine for engine in self.engines if ENGINE_FORMATS[engine] == format_name), None)

    def runs_on_gpu(self, engine: str) -> bool:
        """True when the device has a GPU and this engine keeps weights and KV cache in its memory."""
        return self.gpu is not None and engine in GPU_ENGINES

    def available_bytes(self, on_gpu: bool) -> int:
        """Memory a model may take: all GPUs together, or RAM. RAM that a GPU shares is counted once, whoever uses it."""
        if not on_gpu or self.gpu is None:
            return self.usable_ram_bytes
        usable = int(self.gpu.memory_bytes * self.gpu.count * self.gpu.usable_share)
        return min(usable, self.usable_ram_bytes) if self.gpu.shares_ram else usable
