"""What of a model fits one device: a row for every format and precision, and the one to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgeport.devices.memory import Workload
from edgeport.devices.plan_containers import Container, container_of, of_format, precisions_of
from edgeport.devices.plan_engines import encoder_notes, export_note, why_not
from edgeport.devices.plan_place import Placement, place
from edgeport.devices.plan_row import PlanRow, Verdict, plan_row
from edgeport.devices.plan_sizes import size_limit
from edgeport.devices.plan_split import SplitOption, split_notes, split_options
from edgeport.devices.profile import ENGINE_FORMATS, DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.devices.tiers import MethodChoice, choose_method
from edgeport.devices.weights import precisions
from edgeport.errors import UsageError
from edgeport.units import format_count

EXPORTS: Mapping[str, str] = {name: f"--recipe {name}" for name in ("int4", "int8", "f16", "bf16")}
"""Recipes by precision; another precision is a scheme of its format's own, which has a format name."""
METHOD_PRECISION: Mapping[str, str] = {
    "int4 + structured pruning": "int4",
    "int8": "int8",
    "awq": "int4",
    "gptq + sharding": "int4",
}
"""What the methods of `tiers.METHODS` store; AWQ and GPTQ are ways to find INT4 codes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of every device. context_length None: the device's own, at most the model's.

    formats, precisions: empty for all the device has engines for. containers: files that exist already, instead of precisions.
    every_row: False for the best container of each device alone. advised: False where nobody will read the advice.
    """

    context_length: int | None = None
    batch: int = 1
    kv_bits: int | None = None
    formats: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    containers: tuple[Container, ...] = ()
    every_row: bool = True
    advised: bool = True


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """best: the row that the method asks for and that fits, else the nearest to it; None when no engine runs the model.

    refused: formats that no row is about, each with the reason. splits: of the best row on several GPUs. notes: about these, and
    about INT8 on its processor for encoders.
    export_line: what makes the best row's container; empty for families edgeport does not export. instead: how large a model
    may be where nothing makes this one fit.
    """

    device: str
    kind: str
    tier: str
    description: str
    method: MethodChoice
    best: PlanRow | None
    rows: tuple[PlanRow, ...]
    refused: Mapping[str, str]
    splits: tuple[SplitOption, ...] = ()
    notes: tuple[str, ...] = ()
    export_line: str = ""
    instead: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.best.verdict if self.best is not None else "no"


@dataclass(frozen=True, slots=True)
class _Candidate:
    container: Container
    engine: str
    placement: Placement


def plan_device(shape: ModelShape, profile: DeviceProfile, wish: Wish) -> DevicePlan:
    """Every container of the wish on one device. Raises UsageError for a context beyond the model's."""
    workload = Workload(_context(shape, profile, wish), wish.batch, wish.kv_bits)
    refused: dict[str, str] = {}
    found: list[_Candidate] = []
    for format_name in _formats(profile, wish):
        engine = profile.engine_for(format_name)
        reason = why_not(shape, profile, format_name, wish.kv_bits)
        if reason or engine is None:
            refused[format_name] = reason
            continue
        containers = _containers(shape, format_name, wish)
        if not containers:
            refused[format_name] = f"{format_name} is stored in {', '.join(precisions(format_name))}"
        for container in containers:
            found.append(_Candidate(container, engine, place(shape, container, engine, workload, profile)))
    method = choose_method(shape.parameters, profile.tier)
    best = _best(found, METHOD_PRECISION[method.method], profile)
    told = found if wish.every_row else [best] if best is not None else []
    rows = [
        plan_row(shape, item.container, item.engine, workload, profile, advised=wish.advised) for item in told
    ]
    plan = DevicePlan(
        device=profile.name,
        kind=profile.kind,
        tier=profile.tier,
        description=profile.description,
        method=method,
        best=rows[told.index(best)] if best is not None else None,
        rows=tuple(rows),
        refused=refused,
    )
    if best is None or not wish.advised:
        return plan
    return _with_details(plan, best.container, shape, profile, workload)


def _context(shape: ModelShape, profile: DeviceProfile, wish: Wish) -> int:
    context = wish.context_length or min(profile.context_length, shape.context_length)
    if context > shape.context_length:
        raise UsageError(
            f"a context of {context} tokens is more than the {shape.context_length} of {shape.name}",
            hint=f"ask for at most {shape.context_length}",
        )
    return context


def _with_details(
    plan: DevicePlan, container: Container, shape: ModelShape, profile: DeviceProfile, workload: Workload
) -> DevicePlan:
    """The plan with what is only worth telling of the best row."""
    best = plan.best
    assert best is not None
    instead = ""
    if best.verdict == "no" and not container.is_file:
        limit = size_limit(profile, best.format, best.engine, best.precision, workload)
        instead = f"a llama-like model of up to {format_count(limit.parameters)} parameters fits in {best.precision}"
        instead = instead if limit.parameters else f"nothing fits {profile.name} with {best.engine}"
    exported = not container.is_file and not export_note(shape)
    return replace(
        plan,
        splits=split_options(shape, container, best.engine, workload, profile),
        notes=(*split_notes(shape, best, profile.gpu), *encoder_notes(shape, profile)),
        export_line=_export_line(best) if exported else "",
        instead=instead,
    )


def _export_line(row: PlanRow) -> str:
    scheme = EXPORTS.get(row.precision, f"--format {row.format}-{row.precision}")
    named = scheme if "--format" in scheme else f"{scheme} --format {row.format}"
    return f"edgeport export MODEL -o DIR --device {row.device} {named}"


def _formats(profile: DeviceProfile, wish: Wish) -> tuple[str, ...]:
    """Those that were asked for, or those the device has engines for, the preferred engine first."""
    if wish.formats:
        return wish.formats
    offered = dict.fromkeys(ENGINE_FORMATS[engine] for engine in profile.engines)
    held = {container.format for container in wish.containers}
    return tuple(name for name in offered if not held or name in held)


def _containers(shape: ModelShape, format_name: str, wish: Wish) -> Sequence[Container]:
    if wish.containers:
        return of_format(wish.containers, format_name)
    known = precisions(format_name)
    wanted = [name for name in wish.precisions if name in known] or (
        [] if wish.precisions else precisions_of(format_name)
    )
    return [container_of(shape, format_name, name) for name in wanted]


def _best(found: Sequence[_Candidate], precision: str, profile: DeviceProfile) -> _Candidate | None:
    """Of what fits: the method's precision, else the largest file below it; of one precision the device's preferred engine.
    Where nothing fits, what is nearest."""
    fitting = [item for item in found if item.placement.fits]
    if not fitting:
        return min(
            found,
            default=None,
            key=lambda item: item.placement.required_bytes / item.placement.available_bytes,
        )
    order = {engine: index for index, engine in enumerate(profile.engines)}
    wanted = [item.container.file_bytes for item in found if item.container.precision == precision]

    def rank(item: _Candidate) -> tuple[bool, bool, int, int]:
        is_method = item.container.precision == precision
        above = item.container.file_bytes - max(wanted, default=0)
        return not is_method, not is_method and above > 0, 0 if is_method else abs(above), order[item.engine]

    return min(fitting, key=rank)
