"""Which sizes fit a device: limits solved on llama-like shapes, and every known model in the precision that its method asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeport.devices.known_models import known_names, load_known
from edgeport.devices.memory import Workload
from edgeport.devices.plan import Wish, plan_device
from edgeport.devices.plan_containers import precisions_of
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.plan_sizes import SizeLimit, contexts_for, size_limit
from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile
from edgeport.devices.weights import precisions
from edgeport.errors import UsageError
from edgeport.units import format_bytes


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A known model's best row on the device, without advice; row None and the reason where no engine runs it."""

    model: str
    parameters: int
    row: PlanRow | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSizes:
    """The inverse plan of one device. memory: what a model may take, in words."""

    device: str
    kind: str
    tier: str
    description: str
    memory: str
    limits: tuple[SizeLimit, ...]
    known: tuple[KnownModel, ...]

    @property
    def fits(self) -> bool:
        return any(limit.parameters for limit in self.limits)


def device_sizes(profile: DeviceProfile, wish: Wish) -> DeviceSizes:
    """Limits for the device's first engine (or the formats of the wish), and the known models by size."""
    return DeviceSizes(
        device=profile.name,
        kind=profile.kind,
        tier=profile.tier,
        description=profile.description,
        memory=_memory(profile),
        limits=_limits(profile, wish),
        known=tuple(
            sorted((_known(name, profile, wish) for name in known_names()), key=lambda item: item.parameters)
        ),
    )


def _limits(profile: DeviceProfile, wish: Wish) -> tuple[SizeLimit, ...]:
    found = []
    for format_name in wish.formats or (ENGINE_FORMATS[profile.engines[0]],):
        engine = profile.engine_for(format_name)
        if engine is None:
            raise UsageError(
                f"'{profile.name}' has no engine for {format_name}",
                hint=f"it has {', '.join(profile.engines)}",
            )
        for precision in _precisions(format_name, wish):
            for context in contexts_for(profile, wish.context_length):
                workload = Workload(context, wish.batch, wish.kv_bits)
                found.append(size_limit(profile, format_name, engine, precision, workload))
    return tuple(found)


def _precisions(format_name: str, wish: Wish) -> Sequence[str]:
    if not wish.precisions:
        return precisions_of(format_name)
    return [name for name in wish.precisions if name in precisions(format_name)]


def _known(name: str, profile: DeviceProfile, wish: Wish) -> KnownModel:
    """By the first engine that holds it; by the device's preferred one where none does."""
    shape = load_known(name)
    if wish.context_length is not None and wish.context_length > shape.context_length:
        return KnownModel(name, shape.parameters, None, f"was trained for {shape.context_length} tokens")
    nearest: PlanRow | None = None
    reasons: list[str] = []
    for format_name in wish.formats or dict.fromkeys(ENGINE_FORMATS[engine] for engine in profile.engines):
        alone = replace(wish, formats=(format_name,), every_row=False, advised=False)
        plan = plan_device(shape, profile, alone)
        reasons += plan.refused.values()
        if plan.best is not None and plan.best.fits:
            return KnownModel(name, shape.parameters, plan.best)
        nearest = nearest or plan.best
    return KnownModel(name, shape.parameters, nearest, "" if nearest is not None else "; ".join(reasons))


def _memory(profile: DeviceProfile) -> str:
    gpu = profile.gpu
    ram = f"{format_bytes(profile.usable_ram_bytes)} of RAM are usable"
    if gpu is None:
        return ram
    each = profile.available_bytes(True) // gpu.count
    many = f"{gpu.count} x " if gpu.count > 1 else ""
    return f"{ram}, {many}{format_bytes(each)} on {gpu.name}"
