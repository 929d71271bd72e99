"""The ladder: what to try, and in which order, when the gate says no to the recipe that was asked for.

Given recipe -> a better solver -> more bits where they help most -> INT8 -> 16 bits. A recipe that prunes is tried in INT8
first and then without pruning, where the same rungs follow. Each rung is planned before it runs, and what does not fit the
device or the budget is passed over with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.gate.lines import Verdict, worst_quality
from edgeport.export.gate.run import GateReport
from edgeport.export.mix.budget import MixBudget
from edgeport.export.recipe import Recipe, load_recipe
from edgeport.export.sizes import checkpoint_bytes
from edgeport.scheme import TensorScheme

BEST_SOLVER = "gptaq"
"""The best that needs no distillation, which takes hours and is never started by the ladder itself."""
WEAKER: Sequence[str] = ("rtn", "imatrix", "awq", "gptq+imatrix", "gptq", "awq+gptq")
"""What BEST_SOLVER is a step up from."""
MIX_STEPS: Mapping[str, float] = {"mixed precision": 0.25, "more mixed precision": 0.5}
"""How far between all low bits and all INT8 the budget of a mix lies."""
LOW_KINDS = ("int2", "int4")


@dataclass(frozen=True, slots=True)
class Rung:
    """recipe: with the solver to use. mix: what a mixed-precision search over the recipe may spend, None for no search."""

    name: str
    recipe: Recipe
    mix: MixBudget | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one rung. verdict: the gate's, or `skipped`, with the reason. size_bytes: the largest container.

    The figures are those of the container that lost most; None where nothing was measured.
    """

    rung: str
    recipe: str
    solver: str
    verdict: Verdict | str
    reason: str = ""
    bits_per_weight: float | None = None
    size_bytes: int | None = None
    perplexity_ratio: float | None = None
    mean_kl_divergence: float | None = None
    same_top1: float | None = None
    seconds: float | None = None
    failed: tuple[str, ...] = field(default=())

    def to_document(self) -> dict[str, Any]:
        document = asdict(self)
        document["failed"] = list(self.failed)
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Step:
        return cls(**{**document, "failed": tuple(document.get("failed", ()))})


def rungs(spec: DecoderSpec, recipe: Recipe, source_dtype: str) -> list[Rung]:
    """Rungs above `recipe` (whose solver is settled), cheapest first; none above 16 bits. spec: of the unpruned source."""
    found: list[Rung] = []
    if recipe.prepares:
        whole = replace(recipe, prune=None, recover=None)
        if _has(spec, recipe, LOW_KINDS):
            found.append(Rung("INT8 of the prepared model", lift(spec, recipe)))
        return [*found, Rung("without pruning", whole), *rungs(spec, whole, source_dtype)]
    strongest = recipe
    if _has(spec, recipe, LOW_KINDS):
        if recipe.solver in WEAKER:
            strongest = replace(recipe, solver=BEST_SOLVER)
            found.append(Rung(f"solver {BEST_SOLVER}", strongest))
        found += [
            Rung(name, strongest, MixBudget(target_bits=_between(spec, strongest, share)))
            for name, share in MIX_STEPS.items()
        ]
        found.append(Rung("INT8", lift(spec, recipe)))
    if _has(spec, recipe, (*LOW_KINDS, "int8")):
        sixteen = load_recipe("f16" if source_dtype == "f16" else "bf16")
        found.append(Rung("16 bits", sixteen))
    return found


def lift(spec: DecoderSpec, recipe: Recipe) -> Recipe:
    """The same blocks with every low-bit tensor in INT8, where rounding to nearest is enough."""

    def raised(scheme: TensorScheme) -> TensorScheme:
        return TensorScheme("int8", scheme.block) if scheme.kind in LOW_KINDS else scheme

    return Recipe(
        name="int8",
        description=f"{recipe.name} with every low-bit tensor raised to INT8",
        linear=raised(recipe.linear),
        embedding=raised(recipe.embedding),
        head=raised(recipe.head),
        solver="rtn",
        overrides={pattern: raised(scheme) for pattern, scheme in recipe.overrides.items()},
        prune=recipe.prune,
        recover=recipe.recover,
    )


def step_of(
    rung: Rung, report: GateReport, *, bits_per_weight: float, size_bytes: int, seconds: float
) -> Step:
    """A judged rung, with the figures of the container that lost most."""
    worst = worst_quality(report.quality)
    failed = [line for line in report.lines if line.verdict == "fail"]
    return Step(
        rung=rung.name,
        recipe=rung.recipe.name,
        solver=rung.recipe.solver,
        verdict=report.verdict,
        reason=report.reason,
        bits_per_weight=bits_per_weight,
        size_bytes=size_bytes,
        perplexity_ratio=worst.perplexity_ratio if worst is not None else None,
        mean_kl_divergence=worst.mean_kl_divergence if worst is not None else None,
        same_top1=worst.same_top1 if worst is not None else None,
        seconds=round(seconds, 1),
        failed=tuple(
            f"{line.container} {line.name} {line.measured_text} (allowed {line.threshold_text})"
            for line in failed
        ),
    )


def skipped(rung: Rung, reason: str) -> Step:
    return Step(rung.name, rung.recipe.name, rung.recipe.solver, "skipped", reason)


def _between(spec: DecoderSpec, recipe: Recipe, share: float) -> float:
    """Bits per parameter."""
    low, high = checkpoint_bytes(spec, recipe), checkpoint_bytes(spec, lift(spec, recipe))
    return (low + share * (high - low)) * 8 / spec.parameters()


def _has(spec: DecoderSpec, recipe: Recipe, kinds: Sequence[str]) -> bool:
    return any(recipe.scheme_for(item).kind in kinds for item in spec.tensors())
