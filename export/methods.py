"""Decide how the codes are found: the solver, and what it, a mix or a native format has to be calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.devices.conversion import conversion_memory
from edgeport.devices.probe import read_host
from edgeport.errors import DoesNotFit, RecipeError
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.mix.budget import MixBudget, all_schemes, budget_limits, require_possible
from edgeport.export.mix.groups import tensor_groups
from edgeport.export.preflight import calibration_load
from edgeport.export.quantize.choose import SolverChoice, choose_solver, estimate_seconds, matrix_rate
from edgeport.export.quantize.solvers import AUTO, SOLVERS
from edgeport.export.recipe import Recipe
from edgeport.export.sizes import model_facts, packed_bytes
from edgeport.export.source import SourceModel
from edgeport.units import format_bytes

DEFAULT_CALIBRATION_TOKENS = 32768
DEFAULT_CALIBRATION_CONTEXT = 512


@dataclass(frozen=True, slots=True)
class CalibrationWish:
    """What was asked for: `wanted` is auto, self, embedded, a file, a folder or a hub id; n_ctx None: 512 or the model's."""

    wanted: str = "auto"
    tokens: int = DEFAULT_CALIBRATION_TOKENS
    n_ctx: int | None = None


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """Text of `tokens` tokens in windows of `n_ctx`; reasons: who needs it. heldout: what it must not overlap."""

    wanted: str
    tokens: int
    n_ctx: int
    heldout: Path | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What the machine gives: threads, and seconds for the solver (None: as long as it takes)."""

    threads: int
    time_budget_s: float | None = None


def decide_solver(
    spec: DecoderSpec, recipe: Recipe, wanted: str | None, *, tokens: int, means: Means
) -> SolverChoice:
    """`wanted`, or what the recipe names; `auto` is settled by size and time. Raises RecipeError for an unknown name."""
    name = wanted or recipe.solver
    if name != AUTO and name not in SOLVERS:
        raise RecipeError(f"unknown solver {name!r}", hint=f"solvers are {AUTO}, {', '.join(SOLVERS)}")
    if not has_codes(spec, recipe):
        return SolverChoice("rtn", "the recipe quantizes nothing", 0.0)
    if name == AUTO:
        return choose_solver(
            spec,
            calibration_tokens=tokens,
            threads=means.threads,
            time_budget_s=means.time_budget_s,
            fits_memory=_fits_memory(spec, recipe, means.threads),
        )
    reason = "asked for with --solver" if wanted else f"recipe {recipe.name} names it"
    rate = matrix_rate(means.threads) if SOLVERS[name].needs != "nothing" else 1.0
    return SolverChoice(name, reason, estimate_seconds(spec, name, calibration_tokens=tokens, rate=rate))


def _fits_memory(spec: DecoderSpec, recipe: Recipe, threads: int) -> Callable[[str], bool]:
    """Whether the machine's free memory holds the calibration pass of a solver."""
    facts, available_bytes = model_facts(spec, recipe), read_host().available_bytes

    def fits(solver: str) -> bool:
        load = calibration_load(solver)
        estimate = conversion_memory(facts, largest_bits_per_weight=8.5, threads=threads, calibration=load)
        return estimate.peak_bytes <= available_bytes

    return fits


def has_codes(spec: DecoderSpec, recipe: Recipe, kinds: Sequence[str] = ("int2", "int4", "int8")) -> bool:
    """Whether the recipe stores any tensor in one of these kinds."""
    return any(recipe.scheme_for(item).kind in kinds for item in spec.tensors())


def with_solver(recipe: Recipe, solver: str) -> Recipe:
    return recipe if recipe.solver == solver else replace(recipe, solver=solver)


def plan_calibration(
    spec: DecoderSpec, wish: CalibrationWish, heldout: Path | None, reasons: Sequence[str]
) -> CalibrationPlan:
    n_ctx = wish.n_ctx or min(DEFAULT_CALIBRATION_CONTEXT, spec.context_length)
    return CalibrationPlan(wish.wanted, wish.tokens, n_ctx, heldout, tuple(reasons))


def plan_mix(source: SourceModel, recipe: Recipe, budget: MixBudget) -> MixBudget:
    """The same budget, when a mix over the recipe can meet it. Raises DoesNotFit, naming the least possible."""
    groups = tensor_groups(source.spec, recipe, budget.search.schemes, per_tensor=budget.per_tensor)
    lowest = {item.name: group.schemes[0] for group in groups for item in group.tensors}
    limits = budget_limits(source, recipe, budget)
    require_possible(source, budget, limits, all_schemes(source.spec, recipe, lowest))
    return budget


def require_size(source: SourceModel, recipe: Recipe, size_bytes: int, formats: Sequence[str]) -> None:
    """Raises DoesNotFit when a container of this recipe, tokenizer and graph included, may exceed `size_bytes`."""
    if not formats:
        return
    for limit in budget_limits(source, recipe, MixBudget(target_bytes=size_bytes, formats=tuple(formats))):
        needed = packed_bytes(source.spec, recipe, limit.container) + limit.overhead.most_bytes
        if needed > size_bytes:
            raise DoesNotFit(
                f"{limit.container} takes {format_bytes(needed)} with recipe {recipe.name}, more than --target-size "
                f"{format_bytes(size_bytes)}"
            )
