"""Which hardware a model size belongs to, and which compression a size and a target ask for. Tables, no code paths.

Sizes are parameter counts; the byte limits of the method table are the model's weights in 16 bits, the size its
publisher ships. Both tables are ordered, the first row that applies wins, and every answer carries its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.units import format_bytes, format_count

BILLION = 10**9
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True)
class Tier:
    """One row: models below `parameter_limit` (None: no limit) run on this hardware at this precision."""

    name: str
    parameter_limit: int | None
    hardware: str
    precision: str
    size_ratio: str


TIERS: tuple[Tier, ...] = (
    Tier("edge", 1 * BILLION, "edge devices, RTX 4070 class", "INT8 / INT4", "4-8x"),
    Tier("workstation", 7 * BILLION, "workstation, RTX 4090 class", "FP16 -> INT8", "2-4x"),
    Tier("server", 30 * BILLION, "A100 40GB class", "AWQ / GPTQ", "2-4x"),
    Tier("multi-gpu", 70 * BILLION, "2x A100 80GB class", "GPTQ + sharding", "4x or more"),
    Tier("cluster", None, "4 or more H100", "mixed", "mixed"),
)
TIER_NAMES = tuple(tier.name for tier in TIERS)


@dataclass(frozen=True, slots=True)
class Method:
    """One row: for weights below `weights_limit_bytes` in 16 bits, on `tier` only when one is named."""

    name: str
    tier: str | None
    weights_limit_bytes: int | None
    because: str


@dataclass(frozen=True, slots=True)
class MethodChoice:
    method: str
    reason: str


METHODS: tuple[Method, ...] = (
    Method("int4 + structured pruning", "edge", None, "an edge device is short of memory and of bandwidth"),
    Method("int8", None, 4 * GIGABYTE, "it is small enough for 8 bits, which lose almost nothing"),
    Method("awq", None, 16 * GIGABYTE, "4 bits are needed, and activation-aware scales keep their loss low"),
    Method("gptq + sharding", None, None, "it needs 4 bits with error feedback and more than one device"),
)


def tier_rank(name: str) -> int:
    """Position of a tier from the smallest hardware to the largest."""
    return TIER_NAMES.index(name)


def tier_for(parameters: int) -> Tier:
    """The tier a model of this many parameters belongs to."""
    return next(tier for tier in TIERS if tier.parameter_limit is None or parameters < tier.parameter_limit)


def choose_method(parameters: int, device_tier: str) -> MethodChoice:
    """The compression for a model on a device of `device_tier`, with the numbers that decided."""
    weights_bytes = 2 * parameters
    for method in METHODS:
        if method.tier not in (None, device_tier):
            continue
        limit = method.weights_limit_bytes
        if limit is not None and weights_bytes >= limit:
            continue
        size = f"{format_count(parameters)} parameters are {format_bytes(weights_bytes)} in 16 bits"
        bound = f", below {limit // GIGABYTE} GB" if limit is not None else ""
        return MethodChoice(method.name, f"{device_tier} tier, {size}{bound}: {method.because}")
    raise AssertionError("the last row of METHODS has no condition")
