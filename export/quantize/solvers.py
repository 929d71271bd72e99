"""The solvers by name. A new one is a file with `solve` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from edgeport.errors import RecipeError
from edgeport.export.quantize.solver import Solver
from edgeport.lazy import load

Needs = Literal["nothing", "second_moment", "hessian"]


@dataclass(frozen=True, slots=True)
class SolverEntry:
    """needs: what the calibration pass must gather. folds: AWQ scales are folded into the layer before it solves.
    corrects: a float stream runs beside the quantized one, so that each layer makes good what the ones before it did.
    learns: distillation of scales and codes follows."""

    target: str
    needs: Needs
    description: str
    folds: bool = False
    corrects: bool = False
    learns: bool = False


SOLVERS: Mapping[str, SolverEntry] = {
    "rtn": SolverEntry(
        "edgeport.export.quantize.rtn:prepare",
        "nothing",
        "round to nearest, signed scale searched per block; no calibration",
    ),
    "imatrix": SolverEntry(
        "edgeport.export.quantize.imatrix:prepare",
        "second_moment",
        "the same search, errors weighted by the mean square of each input feature",
    ),
    "gptq": SolverEntry(
        "edgeport.export.quantize.gptq:prepare",
        "hessian",
        "error feedback through the inverse Hessian, static groups",
    ),
    "gptq+imatrix": SolverEntry(
        "edgeport.export.quantize.gptq:prepare_weighted",
        "hessian",
        "gptq with its scales from the activation-weighted search",
    ),
    "awq": SolverEntry(
        "edgeport.export.quantize.imatrix:prepare",
        "hessian",
        "channel scales folded into the preceding operation, then the activation-weighted search",
        folds=True,
    ),
    "awq+gptq": SolverEntry(
        "edgeport.export.quantize.gptq:prepare_weighted",
        "hessian",
        "awq's folding, then gptq+imatrix",
        folds=True,
    ),
    "gptaq": SolverEntry(
        "edgeport.export.quantize.gptq:prepare_refined",
        "hessian",
        "gptq aimed at what the float model computes, so that layers make good the errors before them; then refined",
        corrects=True,
    ),
    "learned": SolverEntry(
        "edgeport.export.quantize.gptq:prepare_refined",
        "hessian",
        "gptaq, then codes and scales distilled on the source model's own answers; slow",
        corrects=True,
        learns=True,
    ),
}
AUTO = "auto"


def get_solver(name: str) -> Solver:
    """Raises RecipeError for an unknown name."""
    if name not in SOLVERS:
        raise RecipeError(f"unknown solver {name!r}", hint=f"solvers are {AUTO}, {', '.join(SOLVERS)}")
    return cast(Solver, load(SOLVERS[name].target))
