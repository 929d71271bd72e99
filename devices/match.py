"""Does this model fit this device, in which format, up to which context, and what would make it fit? Pure functions.

What a format needs comes from `memory`, what the device has from its profile. Advice is solved from the same formulas:
the context that fits is the largest one that does, the bits are those that leave the other terms as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeport.devices.memory import MemoryEstimate, Workload, engine_for, even_weights
from edgeport.devices.plan_containers import Container
from edgeport.devices.plan_place import Placement, largest_context, place
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape, shape_of
from edgeport.devices.speed import SpeedEstimate, estimate_speed
from edgeport.devices.work import nominal_bits
from edgeport.errors import DoesNotFit, UsageError
from edgeport.manifest import ModelFacts
from edgeport.units import format_count

SMALLEST_BITS = 2.0


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict for one format. `advice` lists changes that each make it fit, empty when it fits.

    largest_context: what the memory holds, at most what the model was trained for; 0 when not even 256 tokens fit.
    offered: the device's profile names an engine for this format. required_bytes, available_bytes: of the fullest GPU where
    the engine runs on GPUs, else of RAM.
    """

    format: str
    engine: str
    offered: bool
    on_gpu: bool
    fits: bool
    memory: MemoryEstimate
    required_bytes: int
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
    smallest = min(candidates, key=lambda fit: fit.required_bytes - fit.available_bytes)
    raise DoesNotFit(
        f"the model does not fit '{profile.name}': {smallest.reason}",
        hint="; or ".join(smallest.advice)
        or "choose a device with more memory, a smaller model, or prune it",
    )


def _fit(
    model: ModelFacts, format_name: str, weights_bytes: int, profile: DeviceProfile, context_length: int
) -> Fit:
    shape, engine = shape_of(model), engine_for(profile, format_name)
    workload = Workload(context_length)

    def container(size_bytes: int) -> Container:
        # Only the size is known: equal bits everywhere, so that tensors share it as they share the parameters.
        weights = even_weights(shape, size_bytes)
        return Container(format_name, "f16", weights, nominal_bits(shape, max(1, size_bytes)), is_file=True)

    def holds(size_bytes: int) -> bool:
        return place(shape, container(size_bytes), engine, workload, profile).fits

    found = place(shape, container(weights_bytes), engine, workload, profile)
    largest = largest_context(shape, container(weights_bytes), engine, workload, profile)
    advice: tuple[str, ...] = ()
    if not found.fits:
        advice = _advice(shape, weights_bytes, found, largest, _largest_weights(weights_bytes, holds))
    # The reference reads its float32 copy, every other engine as many bytes as the file has.
    read_bytes = found.memory.weights_bytes if engine == "reference" else weights_bytes
    return Fit(
        format=format_name,
        engine=engine,
        offered=profile.engine_for(format_name) is not None,
        on_gpu=found.gpus > 0,
        fits=found.fits,
        memory=found.memory,
        required_bytes=found.required_bytes,
        available_bytes=found.available_bytes,
        largest_context=largest,
        speed=estimate_speed(
            shape, read_bytes, nominal_bits(shape, read_bytes), profile, engine,
            on_gpu=found.gpus > 0, split=found.layout,
        ),
        reason=found.reason,
        advice=advice,
    )  # fmt: skip


def _advice(
    shape: ModelShape, weights_bytes: int, found: Placement, largest: int, smaller_bytes: int
) -> tuple[str, ...]:
    """Changes that are each enough alone."""
    advice = []
    if largest:
        advice.append(f"lower the context to {largest} tokens")
    bits = math.floor(80 * smaller_bytes / shape.parameters) / 10
    if found.memory.engine != "reference" and bits >= SMALLEST_BITS:
        bits_now = 8 * weights_bytes / shape.parameters
        advice.append(f"store the weights in at most {bits:.1f} bits each instead of {bits_now:.1f}")
    if not advice and smaller_bytes:
        size = format_count(shape.parameters * smaller_bytes / weights_bytes)
        advice.append(f"take a model of at most {size} parameters at the same precision")
    return tuple(advice)


def _largest_weights(weights_bytes: int, holds: Callable[[int], bool]) -> int:
    """The most bytes of weights, below `weights_bytes`, that fit with everything else unchanged; 0 when none do."""
    low, high = 0, weights_bytes
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
