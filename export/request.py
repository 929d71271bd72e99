"""What is asked of an export, and the plan that answers before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeport.devices.catalog import load_profile
from edgeport.devices.conversion import StageMemory
from edgeport.devices.match import Fit, fits, require_fit
from edgeport.devices.probe import available_threads
from edgeport.devices.profile import DeviceProfile
from edgeport.errors import DoesNotFit, UnsupportedModel, UsageError
from edgeport.export.expressible import (
    container_notes,
    snapped_blocks,
    supported_formats,
    unmatched_overrides,
)
from edgeport.export.formats.table import FORMATS
from edgeport.export.gate.heldout import HeldoutText, find_heldout
from edgeport.export.gate.ladder import Rung, rungs
from edgeport.export.gate.thresholds import DEFAULT_THRESHOLDS, Thresholds
from edgeport.export.methods import (
    CalibrationPlan,
    CalibrationWish,
    Means,
    decide_solver,
    plan_calibration,
    plan_mix,
    require_size,
    with_solver,
)
from edgeport.export.mix.budget import MixBudget
from edgeport.export.native_plan import NativePlan, is_native, native_names, plan_native
from edgeport.export.preflight import require_disk, require_free_output, require_memory
from edgeport.export.preparation import Preparation, RecoveryWish, plan_preparation, settle_recovery
from edgeport.export.quantize.choose import SolverChoice
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.sizes import checkpoint_bytes, model_facts, packed_bytes, stored_bytes
from edgeport.export.source import SourceModel, open_source
from edgeport.manifest import ModelFacts
from edgeport.units import format_seconds

LAST_RECIPE = "edge-pruned"
"""Planned for devices of few bits when nothing else fits."""

__all__ = ["ExportPlan", "ExportRequest", "make_plan", "model_facts", "packed_bytes", "plan_with", "replan"]


@dataclass(frozen=True, slots=True)
class GateWish:
    """enabled: judge before publishing. ladder: go on to the next recipe when it says no. deployment_checks: also compare
    speed, memory and stability with the 16-bit containers. heldout: UTF-8 text to judge on, None: the source's own."""

    enabled: bool = True
    ladder: bool = True
    deployment_checks: bool = False
    heldout: Path | None = None
    thresholds: Thresholds = DEFAULT_THRESHOLDS


@dataclass(frozen=True, slots=True)
class Budget:
    """What the result may take; None: what the device has. bits: average per parameter. size_bytes: weights of the largest
    container. memory_bytes: of the device when it runs. time_s: for the solver `auto` chooses."""

    bits: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """formats, recipe, solver, context_length and threads: None means what the device profile or this machine suggests."""

    model: str
    device: str
    out: Path
    formats: tuple[str, ...] | None = None
    recipe: str | None = None
    context_length: int | None = None
    threads: int | None = None
    force: bool = False
    resume: bool = True
    verify: bool = True
    solver: str | None = None
    recovery: RecoveryWish = RecoveryWish()
    calibration: CalibrationWish = CalibrationWish()
    gate: GateWish = GateWish()
    budget: Budget = Budget()


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Everything decided: nothing below this point asks what to do. Sizes are bytes; refused maps formats to reasons.

    original: the model as it was given, which the gate compares with. source: what is quantized: the same, or with a
    preparation first its shape and, once that has run, the prepared model.
    mix: what a mixed-precision search over the recipe may spend, None for no search. calibration: None when
    nothing needs one. heldout: None when the gate's text has to be sampled. ladder: what is tried when the gate says no.
    conversion: what each stage of the export is expected to take.
    """

    request: ExportRequest
    original: SourceModel
    source: SourceModel
    recipe: Recipe
    profile: DeviceProfile
    facts: ModelFacts
    formats: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    sizes_bytes: Mapping[str, int]
    fits: tuple[Fit, ...]
    context_length: int
    threads: int
    disk_bytes: int
    ram_bytes: int
    notes: tuple[str, ...]
    solver: SolverChoice
    mix: MixBudget | None = None
    calibration: CalibrationPlan | None = None
    heldout: HeldoutText | None = None
    native: Mapping[str, NativePlan] = field(default_factory=dict)
    preparation: Preparation | None = None
    ladder: tuple[Rung, ...] = ()
    conversion: tuple[StageMemory, ...] = ()

    @property
    def portable(self) -> tuple[str, ...]:
        """Formats that hold the checkpoint's codes; the others have a scheme of their own."""
        return tuple(name for name in self.formats if name not in self.native)

    @property
    def judged(self) -> bool:
        """Whether the gate runs: it judges what was verified."""
        return self.request.gate.enabled and self.request.verify


@dataclass(frozen=True, slots=True)
class _Frame:
    """What is the same for every recipe that may be tried."""

    request: ExportRequest
    source: SourceModel
    profile: DeviceProfile
    wanted: tuple[str, ...]
    threads: int
    heldout: HeldoutText | None


def make_plan(request: ExportRequest) -> ExportPlan:
    """Decide and check. Raises UsageError, UnsupportedModel or DoesNotFit, with numbers, before anything is written."""
    profile = _budgeted(load_profile(request.device), request.budget.memory_bytes)
    first = load_recipe(request.recipe or profile.recipe)
    if request.recipe is not None:
        first = settle_recovery(first, request.recovery)
    wanted = tuple(dict.fromkeys(request.formats or profile.formats))
    unknown = [name for name in wanted if name not in FORMATS and not is_native(name)]
    if unknown:
        allowed = ", ".join((*FORMATS, *native_names()))
        raise UsageError(f"unknown format {unknown[0]!r}", hint=f"formats are {allowed}")
    require_free_output(request.out, force=request.force)
    _check_counts(request)
    source = open_source(request.model)
    frame = _Frame(
        request=request,
        source=source,
        profile=profile,
        wanted=wanted,
        threads=request.threads or available_threads(),
        heldout=find_heldout(request.gate.heldout, source),
    )
    plan = _first_plan(frame, first)
    require_disk(request.out, plan.disk_bytes)
    ladder = rungs(source.spec, plan.recipe, source.facts().dtype) if _climbs(plan) else []
    return replace(plan, ladder=tuple(ladder))


def replan(plan: ExportPlan, rung: Rung) -> ExportPlan:
    """The same request with a rung's recipe. Raises DoesNotFit or UnsupportedModel where it cannot be."""
    frame = _frame(plan)
    source, budget = _shape(frame, rung.recipe), plan.request.budget
    spec = source.spec
    solver = decide_solver(spec, rung.recipe, None, tokens=_tokens(plan.request), means=_means(frame))
    if budget.time_s is not None and solver.seconds > budget.time_s:
        raise DoesNotFit(
            f"solver {solver.name} takes about {format_seconds(solver.seconds)}, more than --time-budget "
            f"{format_seconds(budget.time_s)}"
        )
    mix = rung.mix
    bits = model_facts(spec, rung.recipe).bits_per_weight
    if mix is not None:
        bits = mix.target_bits or bits
        if budget.size_bytes is not None:
            raise DoesNotFit("a mix within --target-size was the first thing tried")
        plan_mix(source, rung.recipe, mix)
    elif budget.size_bytes is not None:
        require_size(source, rung.recipe, budget.size_bytes, plan.portable)
    if budget.bits is not None and bits > budget.bits:
        raise DoesNotFit(f"{bits:.2f} bits per weight are more than --target-bits {budget.bits:g}")
    found = _plan_with_solver(frame, with_solver(rung.recipe, solver.name), solver, mix)
    lost = [name for name in plan.formats if name not in found.formats]
    if lost:
        raise UnsupportedModel(f"{lost[0]}: {', '.join(found.refused[lost[0]])}")
    return found


def plan_with(plan: ExportPlan, recipe: Recipe) -> ExportPlan:
    """The plan with the recipe that a mixed-precision search chose; sizes and fits follow. Raises DoesNotFit."""
    found = _plan_with_solver(_frame(plan), recipe, plan.solver, None)
    return replace(found, source=plan.source, mix=plan.mix, ladder=plan.ladder)


def _frame(plan: ExportPlan) -> _Frame:
    wanted = (*plan.formats, *plan.refused)
    return _Frame(plan.request, plan.original, plan.profile, wanted, plan.threads, plan.heldout)


def _shape(frame: _Frame, recipe: Recipe) -> SourceModel:
    """What the recipe quantizes."""
    preparation = plan_preparation(frame.source, recipe, frame.wanted)
    return preparation.shape if preparation is not None else frame.source


def _first_plan(frame: _Frame, recipe: Recipe) -> ExportPlan:
    """The recipe that was asked for; otherwise the first that fits of the device's, with a budget INT8 and INT4, and last
    the one that prunes."""
    request, means = frame.request, _means(frame)
    candidates = [recipe]
    if request.recipe is None:
        budget = request.budget
        if budget.size_bytes is not None or budget.bits is not None:
            candidates = [load_recipe("int4")]
        elif budget.memory_bytes is not None:
            candidates += [load_recipe(name) for name in ("int8", "int4")]
        if frame.profile.recipe in ("int4", "edge"):
            candidates.append(settle_recovery(load_recipe(LAST_RECIPE), request.recovery))
    for number, candidate in enumerate(candidates):
        spec = _shape(frame, candidate).spec
        solver = decide_solver(spec, candidate, request.solver, tokens=_tokens(request), means=means)
        settled = with_solver(candidate, solver.name)
        try:
            return _plan_with_solver(frame, settled, solver, _mix(frame, settled))
        except DoesNotFit:
            if number == len(candidates) - 1:
                raise
    raise AssertionError("there is always a candidate")


def _plan_with_solver(
    frame: _Frame, recipe: Recipe, solver: SolverChoice, mix: MixBudget | None
) -> ExportPlan:
    request = frame.request
    preparation = plan_preparation(frame.source, recipe, frame.wanted)
    source = preparation.shape if preparation is not None else frame.source
    spec = source.spec
    native = {name: plan_native(name, source) for name in frame.wanted if is_native(name)}
    formats, refused = supported_formats(source, recipe, frame.wanted, native)
    facts = model_facts(spec, recipe)
    portable = {name: packed_bytes(spec, recipe, name) for name in formats if name not in native}
    context_length = request.context_length or min(frame.profile.context_length, facts.context_length)
    sizes = {name: native[name].size_bytes if name in native else portable[name] for name in formats}
    # Packed safetensors is made whatever was asked for: the golden answers are computed from it.
    packed = sizes | {"safetensors": packed_bytes(spec, recipe, "safetensors")}
    disk_bytes = checkpoint_bytes(spec, recipe) * (1 if solver.name == "rtn" else 2)
    disk_bytes += preparation.disk_bytes if preparation is not None else 0
    largest = max(spec.tensors(), key=lambda item: stored_bytes(item, recipe.scheme_for(item)))
    conversion = require_memory(
        facts,
        largest_bits_per_weight=recipe.scheme_for(largest).bits_per_weight,
        threads=frame.threads,
        solver=solver.name,
    )
    reasons = ["pruning"] if recipe.prune is not None else []
    reasons += _calibrated_by(solver, mix, [native[name] for name in formats if name in native])
    heldout = frame.heldout.path if frame.heldout is not None else None
    return ExportPlan(
        request=request,
        original=frame.source,
        source=source,
        recipe=recipe,
        profile=frame.profile,
        facts=facts,
        formats=formats,
        refused=refused,
        sizes_bytes=sizes,
        fits=_fits(facts, portable, frame.profile, context_length),
        context_length=context_length,
        threads=frame.threads,
        disk_bytes=disk_bytes + sum(packed.values()),
        ram_bytes=max(conversion.peak_bytes, preparation.ram_bytes if preparation is not None else 0),
        notes=(
            *container_notes(spec, formats),
            *unmatched_overrides(spec, recipe),
            *snapped_blocks(spec, recipe),
        ),
        solver=solver,
        mix=mix,
        calibration=plan_calibration(spec, request.calibration, heldout, reasons) if reasons else None,
        heldout=frame.heldout,
        native={name: native[name] for name in formats if name in native},
        preparation=preparation,
        conversion=conversion.stages,
    )


def _fits(
    facts: ModelFacts, portable: Mapping[str, int], profile: DeviceProfile, context_length: int
) -> tuple[Fit, ...]:
    """Raises DoesNotFit when nothing that the device can open fits; formats with a scheme of their own are not modelled."""
    if portable:
        return require_fit(facts, portable, profile, context_length)
    fits(facts, {}, profile, context_length)  # refuses a context beyond the model's
    return ()


def _calibrated_by(solver: SolverChoice, mix: MixBudget | None, native: Sequence[NativePlan]) -> list[str]:
    reasons = [f"solver {solver.name}"] if SOLVERS[solver.name].needs != "nothing" else []
    reasons += ["the choice of bits"] if mix is not None else []
    return reasons + [item.name for item in native if item.needs_statistics]


def _mix(frame: _Frame, recipe: Recipe) -> MixBudget | None:
    """The search for --target-bits or --target-size. Raises DoesNotFit when nothing can be that small."""
    budget = frame.request.budget
    if budget.bits is None and budget.size_bytes is None:
        return None
    formats = tuple(name for name in frame.wanted if name in FORMATS)
    if budget.size_bytes is not None and not formats:
        raise UsageError(
            "--target-size needs a portable format: the others have a size of their own",
            hint=f"name one of {', '.join(FORMATS)} with --format",
        )
    wanted = MixBudget(target_bits=budget.bits, target_bytes=budget.size_bytes, formats=formats)
    return plan_mix(_shape(frame, recipe), recipe, wanted)


def _climbs(plan: ExportPlan) -> bool:
    return plan.judged and plan.request.gate.ladder and bool(plan.portable)


def _means(frame: _Frame) -> Means:
    return Means(frame.threads, frame.request.budget.time_s)


def _tokens(request: ExportRequest) -> int:
    return request.calibration.tokens


def _budgeted(profile: DeviceProfile, memory_bytes: int | None) -> DeviceProfile:
    """The profile with another amount of memory for the run."""
    if memory_bytes is None:
        return profile
    gpu = profile.gpu
    if gpu is not None:
        gpu = replace(gpu, memory_bytes=memory_bytes, count=1)
    return replace(
        profile, ram_bytes=max(profile.ram_bytes, memory_bytes), usable_ram_bytes=memory_bytes, gpu=gpu
    )


def _check_counts(request: ExportRequest) -> None:
    if (request.threads or 1) < 1 or (request.context_length or 1) < 1:
        raise UsageError(
            f"threads {request.threads}, context {request.context_length}", hint="both must be at least 1"
        )
    wish = request.calibration
    if wish.tokens < 1 or (wish.n_ctx or 1) < 1:
        raise UsageError(
            f"calibration of {wish.tokens} tokens in windows of {wish.n_ctx}", hint="both must be at least 1"
        )
    if request.budget.bits is not None and request.budget.bits <= 0:
        raise UsageError(f"--target-bits {request.budget.bits:g} is not possible", hint="for example 4.6")
