"""The whole plan of a model: every device with its best container, the smallest device that holds it, and what the export takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.devices.plan import DevicePlan, Wish, plan_device
from edgeport.devices.plan_conversion import ConversionPlan, plan_conversion
from edgeport.devices.plan_engines import export_note
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.devices.tiers import Tier, tier_for


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A shape without its tensors. kv_values_per_token: keys and values of one token over all layers."""

    name: str
    family: str
    parameters: int
    active_parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    vocab_size: int
    context_length: int
    experts: int
    experts_per_token: int
    kv_values_per_token: int


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """smallest: of the best rows that fit, the one on the device with least memory. note: where the container comes from."""

    model: ModelSummary
    tier: Tier
    devices: tuple[DevicePlan, ...]
    smallest: PlanRow | None
    conversion: ConversionPlan | None
    note: str

    @property
    def fits(self) -> bool:
        return any(device.verdict == "fits" for device in self.devices)


def plan_model(
    shape: ModelShape, profiles: Sequence[DeviceProfile], wish: Wish, *, export_threads: int
) -> ModelPlan:
    """Plan every device. export_threads: of the machine that would convert the model."""
    devices = tuple(plan_device(shape, profile, wish) for profile in profiles)
    chosen = [device.best for device in devices if device.best is not None]
    best = [row for row in chosen if row.fits]
    note = export_note(shape)
    is_exported = bool(chosen) and not note and not wish.containers
    return ModelPlan(
        model=summary(shape),
        tier=tier_for(shape.parameters),
        devices=devices,
        smallest=min(best, key=lambda row: row.available_bytes * max(1, row.gpus), default=None),
        conversion=plan_conversion(shape, best, export_threads) if is_exported else None,
        note="" if wish.containers else note,
    )


def summary(shape: ModelShape) -> ModelSummary:
    return ModelSummary(
        name=shape.name,
        family=shape.family,
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        heads=shape.heads,
        vocab_size=shape.vocab_size,
        context_length=shape.context_length,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        kv_values_per_token=sum(cache.values_per_token for cache in shape.caches),
    )
