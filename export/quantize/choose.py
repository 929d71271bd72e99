"""What the solver `auto` means: the best one whose estimated time fits the budget, and why.

Estimates count multiplications and divide by the rate of a short matrix product on this machine, so they hold within a
factor of about two. `learned` is taken only when a budget was named: it is worth its time, but nobody expects hours.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeport.errors import MissingExtra
from edgeport.export.calibrate.groups import input_groups, weight_name
from edgeport.export.families.decoder import DecoderSpec
from edgeport.export.quantize.learned import LearnSettings
from edgeport.export.quantize.solvers import SOLVERS
from edgeport.lazy import missing_extra
from edgeport.units import format_seconds

DEFAULT_BUDGET_S = 1800.0
_PREFERENCE = ("learned", "gptaq", "gptq", "imatrix")


@dataclass(frozen=True, slots=True)
class SolverChoice:
    """name: a key of SOLVERS. seconds: estimated time of the quantize stage on this machine."""

    name: str
    reason: str
    seconds: float


def choose_solver(
    spec: DecoderSpec,
    *,
    calibration_tokens: int,
    threads: int,
    time_budget_s: float | None,
    fits_memory: Callable[[str], bool] = lambda name: True,
) -> SolverChoice:
    """The best solver within `time_budget_s` for which `fits_memory` holds; without a budget, half an hour and nothing that
    distils."""
    budget = time_budget_s or DEFAULT_BUDGET_S
    told = f"the budget of {format_seconds(budget)}"
    try:
        rate = matrix_rate(threads)
    except MissingExtra as error:
        return SolverChoice("rtn", f"{error.message}, which calibration needs", 0.0)
    left_out: list[str] = []
    for name in _PREFERENCE:
        if name == "learned" and time_budget_s is None:
            continue
        if not fits_memory(name):
            left_out.append(f"{name} needs more memory than is free")
            continue
        seconds = estimate_seconds(spec, name, calibration_tokens=calibration_tokens, rate=rate)
        if seconds <= budget:
            reason = "; ".join([f"about {format_seconds(seconds)} on this machine, within {told}", *left_out])
            return SolverChoice(name, reason, seconds)
        left_out.append(f"{name} ({format_seconds(seconds)}) would take longer")
    return SolverChoice("rtn", f"within {told}: {'; '.join(left_out)}", 0.0)


def estimate_seconds(spec: DecoderSpec, solver: str, *, calibration_tokens: int, rate: float) -> float:
    """Seconds at `rate` multiply-adds per second; 0 for rtn, which reads no text."""
    if SOLVERS[solver].needs == "nothing":
        return 0.0
    entry = SOLVERS[solver]
    shapes = {item.name: item.shape for item in spec.layer_tensors(0)}
    weights = sum(rows * columns for rows, columns in (shape for shape in shapes.values() if len(shape) == 2))
    # Four passes that end early and a whole one are 2.2 whole ones; a float stream beside it doubles that.
    work = 2.2 * weights * calibration_tokens * (2 if entry.corrects else 1)
    for group in input_groups(spec) if entry.needs == "hessian" else ():
        columns = shapes[weight_name(0, group.modules[0])][1]
        rows = sum(shapes[weight_name(0, module)][0] for module in group.modules)
        # Half of x x^T, all of the cross product; factor and inverse in float64, at half the rate.
        work += calibration_tokens * columns**2 * (1.5 if entry.corrects else 0.5) + 2 * columns**3
        # Error feedback over half the columns; refining goes over all of them some four times.
        work += rows * columns**2 * (4.5 if entry.corrects else 0.5)
    work *= spec.layers
    if entry.learns:
        head = spec.vocab_size * spec.hidden_size
        # Forward of the teacher, forward and backward of the student.
        work += 4 * (weights * spec.layers + head) * LearnSettings().steps * LearnSettings().batch_tokens
    return work / rate


@functools.cache
def matrix_rate(threads: int) -> float:
    """Multiply-adds per second of a float32 matrix product, at half of what a short burst shows: a layer is not all products."""
    with missing_extra("eval", purpose="calibration"):
        import torch
    torch.set_num_threads(threads)
    size = 768
    left = torch.ones((size, size))
    left @ left
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.2:
        left @ left
        count += 1
    return count * size**3 / (time.perf_counter() - started) / 2
