"""Formats with a scheme of their own (`gguf-q4_k_m`) in an export's plan: what they will weigh, and what they need."""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.export.native.table import NATIVE, get_native
from edgeport.export.source import SourceModel


@dataclass(frozen=True, slots=True)
class NativePlan:
    """Forecast of one native format; notes say where the engine falls back to another type. reasons_against: empty when it can."""

    name: str
    base: str
    needs_statistics: bool
    reasons_against: tuple[str, ...]
    size_bytes: int
    bits_per_weight: float
    notes: tuple[str, ...]


def native_names() -> tuple[str, ...]:
    return tuple(NATIVE)


def is_native(name: str) -> bool:
    return name in NATIVE


def plan_native(name: str, source: SourceModel) -> NativePlan:
    """Forecast of a native format for this model; nothing is forecast where it cannot hold the model."""
    found = get_native(name)
    reasons = tuple(found.reasons_against(source))
    if reasons:
        return NativePlan(name, found.base, found.needs_statistics, reasons, 0, 0.0, ())
    forecast = found.forecast(source.spec)
    return NativePlan(
        name,
        found.base,
        found.needs_statistics,
        (),
        forecast.size_bytes,
        forecast.bits_per_weight,
        tuple(forecast.notes),
    )
