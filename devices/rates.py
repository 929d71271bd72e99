"""The arithmetic of speed: how long a step or a prompt takes at given rates, and the measured rates of a profile. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from edgeport.devices.profile import DeviceProfile, KernelRates
from edgeport.devices.work import DecodeWork, PromptWork


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device reaches: bytes and operations per second, and seconds that do not depend on either.

    operations, head_operations and the two of attention are None where nobody knows.
    """

    bandwidth: float
    head_bandwidth: float
    cache_bandwidth: float
    seconds_per_layer: float
    seconds_per_token: float = 0.0
    operations: float | None = None
    head_operations: float | None = None
    attention_operations: float | None = None
    decode_attention_operations: float | None = None


def decode_seconds(work: DecodeWork, rates: Rates) -> float:
    """One decoding step: memory and arithmetic go on at once, the slower one counts."""
    reading = work.layers_bytes / rates.bandwidth + work.head_bytes / rates.head_bandwidth
    computing = 0.0 if rates.operations is None else work.operations / rates.operations
    fixed = work.layers * rates.seconds_per_layer + rates.seconds_per_token
    # Every query head goes through the cache of its group: engines differ in how much of that is reading, how much arithmetic.
    attending = work.cache_bytes / rates.cache_bandwidth
    if rates.decode_attention_operations is not None:
        attending += work.attention_operations / rates.decode_attention_operations
    return max(reading, computing) + attending + fixed


def prefill_seconds(work: PromptWork, rates: Rates) -> float | None:
    """One prompt: arithmetic and reading the weights go on at once. None where nobody knows how fast the device computes."""
    if rates.operations is None:
        return None
    computing = work.operations / rates.operations
    computing += work.head_operations / (rates.head_operations or rates.operations)
    computing += work.attention_operations / (rates.attention_operations or rates.operations)
    reading = work.chunks * work.weights_bytes / rates.bandwidth
    return max(computing, reading) + fixed_prompt_seconds(work, rates)


def fixed_prompt_seconds(work: PromptWork, rates: Rates) -> float:
    """What the layers of each chunk cost whatever they compute."""
    return work.chunks * (work.layers * rates.seconds_per_layer + rates.seconds_per_token)


def kernel_for(
    profile: DeviceProfile, engine: str, bits: float, *, on_gpu: bool = False
) -> KernelRates | None:
    """The measured rates for weights of about `bits`, None when the device has none for where the engine would run."""
    if on_gpu != profile.runs_on_gpu(engine):
        return None
    rows = [row for row in profile.kernels if row.engine == engine and abs(row.bits - bits) <= 1]
    return min(rows, key=lambda row: abs(row.bits - bits), default=None)


def kernel_rates(kernel: KernelRates, head: KernelRates | None = None) -> Rates:
    """Measured rates; `head`: of the kernels that compute the output head, the same ones when None."""
    head = head or kernel
    attention = kernel.decode_attention_ops_per_s
    cache = kernel.cache_bandwidth_bytes_per_s
    if cache is None and attention is None:
        cache = kernel.decode_bandwidth_bytes_per_s
    return Rates(
        bandwidth=kernel.decode_bandwidth_bytes_per_s,
        head_bandwidth=head.decode_bandwidth_bytes_per_s,
        cache_bandwidth=math.inf if cache is None else cache,
        seconds_per_layer=kernel.seconds_per_layer,
        seconds_per_token=kernel.seconds_per_token,
        operations=kernel.prefill_ops_per_s,
        head_operations=head.prefill_ops_per_s,
        attention_operations=kernel.attention_ops_per_s,
        decode_attention_operations=attention,
    )


def scaled(rates: Rates, factor: float) -> Rates:
    """Everything `factor` times as fast."""

    def times(rate: float | None) -> float | None:
        return None if rate is None else rate * factor

    return Rates(
        rates.bandwidth * factor,
        rates.head_bandwidth * factor,
        rates.cache_bandwidth * factor,
        rates.seconds_per_layer / factor,
        rates.seconds_per_token / factor,
        times(rates.operations),
        times(rates.head_operations),
        times(rates.attention_operations),
        times(rates.decode_attention_operations),
    )


def scaled_bandwidth(rates: Rates, factor: float) -> Rates:
    return replace(rates, bandwidth=rates.bandwidth * factor, head_bandwidth=rates.head_bandwidth * factor)
