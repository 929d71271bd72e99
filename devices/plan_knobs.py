"""What may be lowered to make a model fit a device, in the order of the harm it does, and the advice solved from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeport.devices.advice import Advice, Change, Knob, Value, solve
from edgeport.devices.kv_cache import RULES, kv_bits_of
from edgeport.devices.memory import Workload
from edgeport.devices.plan_containers import Container, container_of, smaller_precisions
from edgeport.devices.plan_place import place
from edgeport.devices.plan_prune import snap_for, widths, with_ffn_width
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.units import format_count

SHORTEST_ADVISED = 1024
"""Tokens. A shorter context leaves no room for a prompt and an answer; what fits at all is in the plan's own column."""


def advise(
    shape: ModelShape, container: Container, engine: str, workload: Workload, profile: DeviceProfile
) -> Advice:
    """Changes that make it fit, empty where it fits already or where nothing helps."""
    knobs = _knobs(shape, container, engine, workload)
    made: dict[tuple[Value, Value], tuple[ModelShape, Container]] = {}

    def fits(values: Mapping[str, Value]) -> bool:
        key = values["precision"], values["ffn_width"]
        if key not in made:
            narrow = with_ffn_width(shape, int(values["ffn_width"]))
            same = key == (container.precision, shape.intermediate_size)
            made[key] = (
                narrow,
                container if same else container_of(narrow, container.format, str(values["precision"])),
            )
        asked = Workload(int(values["context_length"]), int(values["batch"]), int(values["kv_bits"]))
        return place(*made[key], engine, asked, profile).fits

    return solve(knobs, fits)


def describe(change: Change, shape: ModelShape) -> str:
    """A change as an order, with the option that carries it out."""
    if change.knob == "context_length":
        return f"lower the context to {change.after} tokens (--context {change.after})"
    if change.knob == "batch":
        return f"serve {change.after} sequences at once instead of {change.before} (--batch {change.after})"
    if change.knob == "kv_bits":
        return (
            f"keep the KV cache in {change.after} bits instead of {change.before} (--kv-bits {change.after})"
        )
    if change.knob == "precision":
        return f"store the weights as {change.after} instead of {change.before} (--precision {change.after})"
    narrow = with_ffn_width(shape, int(change.after))
    gone = shape.parameters - narrow.parameters
    return (
        f"prune the feed-forward width from {change.before} to {change.after}: {gone / shape.parameters:.0%} of the "
        f"parameters ({format_count(gone)}) must go (edgeport prune --ffn {change.after})"
    )


def _knobs(shape: ModelShape, container: Container, engine: str, workload: Workload) -> tuple[Knob, ...]:
    kv_bits = _kv_bits(engine, workload)
    lower = [bits for bits in kv_bits_of(engine) if bits < kv_bits]
    lowest = min(SHORTEST_ADVISED, workload.context_length)
    snap = snap_for(container.format, container.precision)
    return (
        Knob("batch", range(workload.batch, 0, -1)),
        Knob("kv_bits", (kv_bits, *lower)),
        Knob("precision", (container.precision, *smaller_precisions(shape, container))),
        Knob("context_length", range(workload.context_length, lowest - 1, -1)),
        Knob("ffn_width", (shape.intermediate_size,) if container.is_file else widths(shape, snap=snap)),
    )


def _kv_bits(engine: str, workload: Workload) -> int:
    return RULES[engine].default_bits if workload.kv_bits is None else workload.kv_bits


def advice_texts(advice: Advice, shape: ModelShape) -> Sequence[str]:
    """One line for each change that is enough alone, or one for those that are needed together."""
    if advice.together:
        return [" and ".join(describe(change, shape) for change in advice.together)]
    return [describe(change, shape) for change in advice.alone]
