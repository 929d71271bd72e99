"""How fast a model will decode and read prompts on a device, with an interval and what it rests on. docs/speed.md.

    seconds per decoded token = weights read / bandwidth + KV cache read / cache bandwidth
                                + layers * seconds per layer + seconds per token
    seconds per prompt = max(operations / rate + attention's operations / its rate, the weights once per chunk / bandwidth)
                         + the fixed costs of each chunk

The rates come from the best there is: the engine measured on the device (`KernelRates`), the bandwidth measured there, the
data sheet with the shares that published runs reached (`shares`). A batch reads the weights once and computes once for each
sequence. Several GPUs: tensor parallelism divides what each reads and adds two all-reduces per layer; a pipeline gives room,
not speed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeport.devices.profile import DeviceProfile, GpuPart, KernelRates
from edgeport.devices.rates import (
    Rates,
    decode_seconds,
    kernel_for,
    kernel_rates,
    prefill_seconds,
    scaled,
    scaled_bandwidth,
)
from edgeport.devices.shape import ModelShape
from edgeport.devices.shares import (
    ALL_REDUCE_SECONDS,
    ALL_REDUCES_PER_LAYER,
    BYTES_PER_S_AND_CORE,
    MEASURED,
    SECONDS_PER_HOP,
    UNPUBLISHED,
    Share,
    SpeedClass,
    cpu_class,
    gpu_class,
)
from edgeport.devices.work import (
    DecodeWork,
    as_cached,
    decode_work,
    kv_bits_of,
    prompt_work,
    stored_weights,
)
from edgeport.errors import UsageError
from edgeport.units import format_bytes

KERNEL_SPREAD = Share(0.85, 1.0, 1.15)
"""What a fit over a few shapes promises for another one."""
CACHE_SPEEDUP = 4.0
"""How much faster than memory a last-level cache may be read; only widens the upper bound."""
PROMPT_TOKENS = 512
HEAD_BITS = 8
"""Recipes keep the head in INT8: where the matrices have fewer bits, the rate of INT8 kernels holds for it."""
PUBLISHED_CPU_ENGINE = "llama.cpp"


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Tokens per second, over all sequences of the batch. Prefill fields are None when nothing says how fast the device computes.

    bytes_per_token: read by one decoding step. basis: in a line, what the figures rest on.
    """

    decode_tokens_per_s: float
    decode_low_tokens_per_s: float
    decode_high_tokens_per_s: float
    prefill_tokens_per_s: float | None
    prefill_low_tokens_per_s: float | None
    prefill_high_tokens_per_s: float | None
    bytes_per_token: int
    basis: str


@dataclass(frozen=True, slots=True)
class Basis:
    """The rates to expect and those at the ends of the interval, with where they come from."""

    expected: Rates
    low: Rates
    high: Rates
    source: str


@dataclass(frozen=True, slots=True)
class _Run:
    """What is asked: which model, on which device, with which engine."""

    shape: ModelShape
    bits: float
    profile: DeviceProfile
    engine: str
    on_gpu: bool
    split: tuple[int, int]


def estimate_speed(  # noqa: PLR0913 - a contract with many callers; all but the first five are settings
    shape: ModelShape,
    weights_bytes: int,
    bits: float,
    profile: DeviceProfile,
    engine: str,
    *,
    depth: int = 0,
    batch: int = 1,
    on_gpu: bool = False,
    kv_bits: int | None = None,
    prompt_tokens: int = PROMPT_TOKENS,
    split: tuple[int, int] | None = None,
) -> SpeedEstimate:
    """Predicted speed with `depth` tokens in the cache of each of `batch` sequences, and of prompts that follow them.

    bits: of the decoder's matrices (4, 8, 16; a fraction for mixed schemes). kv_bits: None means the engine's own.
    split: (tensor parallel, pipeline parallel) GPUs; None means all of the device's, as the engine divides by itself.
    Raises UsageError for an engine nobody has a model of, no weights, negative settings, and a GPU that is not there.
    """
    if min(depth, batch - 1, prompt_tokens - 1) < 0:
        raise UsageError(
            f"cannot estimate a batch of {batch} at depth {depth} with prompts of {prompt_tokens} tokens",
            hint="the batch and the prompt are at least 1, the depth at least 0",
        )
    shape = as_cached(shape, engine)
    run = _Run(shape, bits, profile, engine, on_gpu, _split(profile, engine, on_gpu, split))
    weights = stored_weights(shape, weights_bytes, bits)
    step = decode_work(
        shape, weights, depth=depth, batch=batch, kv_bits=kv_bits_of(engine) if kv_bits is None else kv_bits
    )
    prompt = prompt_work(shape, weights, engine, tokens=prompt_tokens, depth=depth)
    basis = _basis(run, step)
    added = _added_seconds(run, batch), _added_seconds(run, prompt.tokens // prompt.chunks)
    decode = [
        batch / (decode_seconds(step, rates) + extra)
        for rates, extra in zip((basis.expected, basis.low, basis.high), added[0], strict=True)
    ]
    if basis.low.operations is None:
        decode[1] /= batch  # at worst the sequences are computed one after the other
    prefill = [
        None if seconds is None else prompt.tokens / (seconds + prompt.chunks * extra)
        for rates, extra in zip((basis.expected, basis.low, basis.high), added[1], strict=True)
        for seconds in (prefill_seconds(prompt, rates),)
    ]
    return SpeedEstimate(
        decode[0], decode[1], decode[2], prefill[0], prefill[1], prefill[2], step.read_bytes, _text(run, step, basis)
    )  # fmt: skip


def _basis(run: _Run, step: DecodeWork) -> Basis:
    kernel = kernel_for(run.profile, run.engine, run.bits, on_gpu=run.on_gpu)
    if kernel is not None:
        basis = _measured_kernel(run, kernel)
    elif run.on_gpu and run.profile.gpu is not None:
        basis = _gpu_data_sheet(run, run.profile.gpu)
    else:
        basis = _processor(run)
    cache = None if run.on_gpu else run.profile.last_level_cache_bytes
    if step.layers_bytes + step.head_bytes < (cache or 0):
        faster = scaled_bandwidth(basis.high, CACHE_SPEEDUP)
        note = f"{basis.source}; the weights fit in the last-level cache, so that it may be faster"
        basis = replace(basis, high=faster, source=note)
    return basis


def _measured_kernel(run: _Run, kernel: KernelRates) -> Basis:
    head = kernel_for(run.profile, run.engine, HEAD_BITS, on_gpu=run.on_gpu) if run.bits < HEAD_BITS else None
    expected = kernel_rates(kernel, head)
    source = (
        f"{kernel.decode_bandwidth_bytes_per_s / 1e9:.1f} GB/s of {kernel.engine}'s INT{kernel.bits} kernels"
    )
    if kernel.bits == 16:
        source = source.replace("INT16", "16-bit")
    source += f" ({kernel.source or 'measured'})"
    low, high = (scaled(expected, share) for share in (KERNEL_SPREAD.low, KERNEL_SPREAD.high))
    if kernel.prefill_ops_per_s is None:
        expected, low, high = (
            replace(rates, operations=peak)
            for rates, peak in zip((expected, low, high), _peak_operations(run), strict=True)
        )
    return Basis(expected, low, high, source)


def _processor(run: _Run) -> Basis:
    profile, kind = run.profile, cpu_class(run.profile)
    if profile.sustained_bandwidth_bytes_per_s is not None:
        rate, share, what = profile.sustained_bandwidth_bytes_per_s, MEASURED, "measured"
    else:
        rate, share, what = profile.memory_bandwidth_bytes_per_s, kind.decode, f"data sheet, {kind.name}"
        share = _within_cores(share, rate, profile.cores)
    source = f"{share.expected:.0%} of {rate / 1e9:.1f} GB/s ({what})"
    if run.engine != PUBLISHED_CPU_ENGINE:
        share = replace(share, low=share.low * UNPUBLISHED)
        source += f"; no published runs of {run.engine}, so that it may be slower"
    return _from_shares(run, rate, share, kind, source)


def _within_cores(share: Share, rate: float, cores: int) -> Share:
    """Few cores cannot ask for all that a wide memory gives."""
    each = BYTES_PER_S_AND_CORE
    return Share(
        min(share.low, cores * each.low / rate),
        min(share.expected, cores * each.expected / rate),
        min(share.high, cores * each.high / rate),
    )


def _gpu_data_sheet(run: _Run, gpu: GpuPart) -> Basis:
    kind = gpu_class(gpu, run.engine)
    tensor, stages = run.split
    rate = gpu.memory_bandwidth_bytes_per_s * tensor
    source = f"{kind.decode.expected:.0%} of {rate / 1e9:.0f} GB/s (data sheet, {gpu.name}, {kind.name})"
    if tensor * stages > 1:
        source += f"; {tensor} tensor-parallel x {stages} in a pipeline"
    share = kind.decode
    if tensor > 1 and gpu.interconnect_bytes_per_s is None:
        source += "; nobody says how fast the GPUs are connected, the lower bound is one GPU's"
        share = replace(share, low=share.low / tensor)
    return _from_shares(run, rate, share, kind, source)


def _from_shares(run: _Run, rate: float, share: Share, kind: SpeedClass, source: str) -> Basis:
    peaks = _peak_operations(run)
    if peaks[0] is None:
        source += "; no arithmetic rate is known, so that neither prompts nor what a batch costs can be told"

    def rates(fraction: float, peak: float | None, per_layer: float) -> Rates:
        bandwidth = rate * fraction
        return Rates(bandwidth, bandwidth, bandwidth, per_layer, operations=peak)

    fixed = kind.seconds_per_layer
    return Basis(
        rates(share.expected, peaks[0], fixed.expected),
        rates(share.low, peaks[1], fixed.low),
        rates(share.high, peaks[2], fixed.high),
        source,
    )


def _peak_operations(run: _Run) -> tuple[float | None, float | None, float | None]:
    """Expected, lowest and highest arithmetic rate by the data sheet."""
    gpu = run.profile.gpu
    if run.on_gpu and gpu is not None:
        share, peak = gpu_class(gpu, run.engine).prompt, gpu.fp16_flops_per_s
        peak = None if peak is None else peak * run.split[0]
    else:
        share, peak = cpu_class(run.profile).prompt, run.profile.int8_ops_per_s
    if peak is None:
        return None, None, None
    return peak * share.expected, peak * share.low, peak * share.high


def _split(
    profile: DeviceProfile, engine: str, on_gpu: bool, asked: tuple[int, int] | None
) -> tuple[int, int]:
    """(tensor parallel, pipeline parallel); vLLM divides matrices, llama.cpp and transformers divide layers."""
    if not on_gpu:
        return 1, 1
    if profile.gpu is None:
        raise UsageError(f"device '{profile.name}' has no GPU", hint="estimate it for the processor")
    count = profile.gpu.count
    tensor, stages = asked or ((count, 1) if engine == "vllm" else (1, count))
    if min(tensor, stages) < 1 or tensor * stages > count:
        raise UsageError(
            f"{tensor} x {stages} GPUs cannot be used, '{profile.name}' has {count}",
            hint="tensor parallel times pipeline parallel is at most the number of GPUs",
        )
    return tensor, stages


def _added_seconds(run: _Run, tokens: int) -> tuple[float, float, float]:
    """What several GPUs tell each other for a step or chunk of `tokens` tokens: expected, at most, at least."""
    tensor, stages = run.split
    hops = (stages - 1) * SECONDS_PER_HOP
    gpu = run.profile.gpu
    if tensor == 1 or gpu is None:
        return hops, hops, hops
    # A ring sends each byte 2 * (n - 1) / n times; vendors count both directions of a link together.
    message = 2 * run.shape.hidden_size * tokens * 2 * (tensor - 1) / tensor
    link = gpu.interconnect_bytes_per_s
    moving = 0.0 if link is None else message / (link / 2)
    reduces = ALL_REDUCES_PER_LAYER * run.shape.layers

    def seconds(latency: float) -> float:
        return hops + reduces * (latency + moving)

    latency = ALL_REDUCE_SECONDS
    return seconds(latency.expected), seconds(latency.low), seconds(latency.high)


def _text(run: _Run, step: DecodeWork, basis: Basis) -> str:
    read = f"{format_bytes(step.read_bytes)} per token"
    if step.batch > 1:
        read = f"{format_bytes(step.read_bytes)} per step of {step.batch} sequences"
    return f"{read} over {basis.source}"
