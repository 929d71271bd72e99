"""Does this model fit this device, in which format, up to which context, and what would make it fit? Pure functions.

What a format needs comes from `memory`, what the device has from its profile. Advice is solved from the same formulas:
the context that fits is the largest one that does, the bits are those that leave the other terms as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeport.devices.memory import MemoryEstimate, Workload, engine_for, estimate_memory
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape, shape_of
from edgeport.devices.speed import SpeedEstimate, estimate_speed
from edgeport.devices.work import nominal_bits
from edgeport.errors import DoesNotFit, UsageError
from edgeport.manifest import ModelFacts
from edgeport.units import format_bytes, format_count

SMALLEST_CONTEXT = 256
"""A shorter context is not worth loading a model for; also llama.cpp's granularity."""
SMALLEST_BITS = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict for one format. `advice` lists changes that each make it fit, empty when it fits.

    largest_context: what the memory holds, at most what the model was trained for; 0 when not even 256 tokens fit.
    offered: the device's profile names an engine for this format.
    """

    format: str
    engine: str
    offered: bool
    on_gpu: bool
    fits: bool
    memory: MemoryEstimate
    available_bytes: int
    largest_context: int
    speed: SpeedEstimate
    reason: str
    advice: tuple[str, ...] = ()


def fits(
    model: ModelFacts, weights_bytes_by_format: Mapping[str, int], profile: DeviceProfile, context_length: int
) -> tuple[Fit, ...]:
    """One verdict per format, the device's preferred engines first."""
    if context_length > model.context_length:
        raise UsageError(
            f"a context of {context_length} tokens is more than the model's {model.context_length}",
            hint=f"ask for at most {model.context_length}",
        )
    verdicts = [
        _fit(model, format_name, weights_bytes, profile, context_length)
        for format_name, weights_bytes in weights_bytes_by_format.items()
    ]
    order = {engine: index for index, engine in enumerate(profile.engines)}
    return tuple(sorted(verdicts, key=lambda fit: order.get(fit.engine, len(order))))


def require_fit(
    model: ModelFacts, weights_bytes_by_format: Mapping[str, int], profile: DeviceProfile, context_length: int
) -> tuple[Fit, ...]:
    """The verdicts, when at least one format that the device has an engine for fits.

    Raises DoesNotFit otherwise, with the numbers of the format that needs least and what would make it fit.
    """
    verdicts = fits(model, weights_bytes_by_format, profile, context_length)
    candidates = [fit for fit in verdicts if fit.offered] or list(verdicts)
    if not candidates:
        raise UsageError("no format was given")
    if any(fit.fits for fit in candidates):
        return verdicts
    smallest = min(candidates, key=lambda fit: fit.memory.required_bytes - fit.available_bytes)
    raise DoesNotFit(
        f"the model does not fit '{profile.name}': {smallest.reason}",
        hint="; or ".join(smallest.advice)
        or "choose a device with more memory, a smaller model, or prune it",
    )


def _fit(
    model: ModelFacts, format_name: str, weights_bytes: int, profile: DeviceProfile, context_length: int
) -> Fit:
    engine = engine_for(profile, format_name)
    on_gpu = profile.runs_on_gpu(engine)
    available = profile.available_bytes(on_gpu)
    shape = shape_of(model)
    memory = estimate_memory(shape, weights_bytes, engine, Workload(context_length))
    # The reference reads its float32 copy, every other engine as many bytes as the file has.
    read_bytes = memory.weights_bytes if engine == "reference" else weights_bytes
    bits = nominal_bits(shape, read_bytes)
    is_enough = memory.required_bytes <= available
    largest = _largest_context(shape, weights_bytes, engine, available)
    return Fit(
        format=format_name,
        engine=engine,
        offered=profile.engine_for(format_name) is not None,
        on_gpu=on_gpu,
        fits=is_enough,
        memory=memory,
        available_bytes=available,
        largest_context=largest,
        speed=estimate_speed(shape, read_bytes, bits, profile, engine, on_gpu=on_gpu),
        reason=_reason(memory, available),
        advice=() if is_enough else _advice(shape, weights_bytes, memory, available, largest),
    )


def _largest_context(shape: ModelShape, weights_bytes: int, engine: str, available_bytes: int) -> int:
    """The longest context whose estimate stays within the memory (it grows with the context): bisection."""

    def holds(context: int) -> bool:
        return (
            estimate_memory(shape, weights_bytes, engine, Workload(context)).required_bytes <= available_bytes
        )

    low, high = min(SMALLEST_CONTEXT, shape.context_length), shape.context_length
    if not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _reason(memory: MemoryEstimate, available_bytes: int) -> str:
    terms = (
        f"weights {format_bytes(memory.weights_bytes)}, KV cache {format_bytes(memory.kv_cache_bytes)} for "
        f"{memory.context_length} tokens, compute {format_bytes(memory.compute_bytes)}, "
        f"engine {format_bytes(memory.overhead_bytes)}"
    )
    return (
        f"{memory.format} in {memory.engine} needs {format_bytes(memory.required_bytes)} ({terms}), "
        f"{format_bytes(available_bytes)} are usable"
    )


def _advice(
    shape: ModelShape, weights_bytes: int, memory: MemoryEstimate, available_bytes: int, largest_context: int
) -> tuple[str, ...]:
    """Changes that are each enough alone."""
    advice = []
    if largest_context:
        advice.append(f"lower the context to {largest_context} tokens")
    smaller = _largest_weights(shape, weights_bytes, memory, available_bytes)
    bits = math.floor(80 * smaller / shape.parameters) / 10
    if memory.engine != "reference" and bits >= SMALLEST_BITS:
        bits_now = 8 * weights_bytes / shape.parameters
        advice.append(f"store the weights in at most {bits:.1f} bits each instead of {bits_now:.1f}")
    if not advice:
        rest = memory.required_bytes - memory.weights_bytes
        share = max(0, available_bytes - rest) / memory.weights_bytes
        if share > 0:
            advice.append(
                f"take a model of at most {format_count(shape.parameters * share)} parameters at the same precision"
            )
    return tuple(advice)


def _largest_weights(
    shape: ModelShape, weights_bytes: int, memory: MemoryEstimate, available_bytes: int
) -> int:
    """The most bytes of weights, below `weights_bytes`, that fit with everything else unchanged; 0 when none do."""
    low, high = 0, weights_bytes
    while low < high:
        middle = (low + high + 1) // 2
        smaller = estimate_memory(shape, middle, memory.engine, Workload(memory.context_length))
        low, high = (middle, high) if smaller.required_bytes <= available_bytes else (low, middle - 1)
    return low
