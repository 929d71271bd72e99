"""Choose a mix for a budget: measure what each group costs, solve the knapsack, and prove the answer end to end.

Losses of groups add up only nearly. So the mix is run as a whole beside a uniform recipe and two mixes that measure nothing, on
text the search has not seen, and the best of them is what comes back, whichever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.export.calibrate.text import CalibrationText
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.mix import knapsack, naive
from edgeport.export.mix.budget import (
    BITS,
    Limit,
    MixBudget,
    all_schemes,
    budget_limits,
    option_bytes,
    require_possible,
    stored_bytes,
    unspent,
)
from edgeport.export.mix.cost import probe_speed, sensitivity_cost
from edgeport.export.mix.evaluate import compare_weights
from edgeport.export.mix.groups import Assignment, TensorGroup, assign, tensor_groups, with_assignment
from edgeport.export.mix.report import Contender, GroupLine, MixChoice, MixReport, OptionLine
from edgeport.export.mix.sensitivity import Sensitivity, SensitivityRun
from edgeport.export.mix.weights import QuickSolver, RecipeWeights
from edgeport.export.mix.windows import SplitText, split_windows
from edgeport.export.quantize.solvers import AUTO, SOLVERS
from edgeport.export.recipe import Recipe
from edgeport.export.source import SourceModel
from edgeport.progress import Progress
from edgeport.scheme import TensorScheme
from edgeport.units import format_seconds

SEARCHED, UNIFORM = "searched", "uniform"
LLAMA_CPP_LIKE, FIRST_AND_LAST = "llama.cpp-like", "first and last layers"


def choose_mix(  # noqa: PLR0913 - the three last are how, not what
    source: SourceModel,
    recipe: Recipe,
    text: CalibrationText,
    budget: MixBudget,
    *,
    work: Path,
    threads: int,
    progress: Progress,
) -> MixChoice:
    """The best measured mix within `budget`, as overrides of `recipe`. `work` keeps sensitivity.json for other budgets.

    Raises DoesNotFit for a budget below the lowest schemes, UsageError for text shorter than 64 tokens.
    """
    task = MixTask(source, recipe, budget, work, threads)
    groups = tensor_groups(source.spec, recipe, budget.search.schemes, per_tensor=budget.per_tensor)
    split = split_windows(
        text,
        search=budget.search.windows,
        check=budget.search.check_windows,
        n_ctx=min(budget.search.n_ctx, source.spec.context_length),
        vocab_size=source.spec.vocab_size,
    )
    limits = budget_limits(source, recipe, budget)
    require_possible(source, budget, limits, task.resolve(_extreme(groups, 0)))
    work.mkdir(parents=True, exist_ok=True)
    solver = QuickSolver(source, _statistics(task, text, progress))
    sensitivity, notes = _measure(task, solver, groups, split, progress)
    solution = solve_budget(groups, sensitivity, limits, task)
    searched = assign(
        groups, [group.schemes[index] for group, index in zip(groups, solution.chosen, strict=True)]
    )
    mixes = {SEARCHED: searched} | naive_mixes(groups, limits, task)
    contenders = _compare(task, mixes, solver, split, progress)
    # The searched mix comes first and wins ties.
    kept = min(contenders, key=lambda item: item.kl.mean_kl)
    over = unspent(source, budget, limits, task.resolve(_extreme(groups, -1)))
    report = MixReport(
        budget=budget.to_document(),
        groups=_group_lines(groups, sensitivity, mixes[kept.name]),
        predicted_kl=solution.loss,
        exact=solution.exact,
        contenders=tuple(contenders),
        kept=kept.name,
        container_bytes=_container_bytes(limits, task.resolve(mixes[kept.name])),
        search_tokens=split.search.size,
        check_tokens=split.check.size,
        solver=solver.name,
        text_origin=text.origin,
        notes=tuple(note for note in (*notes, over) if note),
    )
    return MixChoice(task.recipe_of(mixes[kept.name], kept.name), report)


@dataclass(frozen=True, slots=True)
class MixTask:
    """What is asked, where it is worked on; and an assignment spelt out for every tensor."""

    source: SourceModel
    recipe: Recipe
    budget: MixBudget
    work: Path
    threads: int

    def resolve(self, assignment: Assignment) -> dict[TensorSpec, TensorScheme]:
        return all_schemes(self.source.spec, self.recipe, assignment)

    def stored_bits(self, assignment: Assignment) -> tuple[float, int]:
        """(bits per weight, bytes) of the checkpoint."""
        size_bytes = sum(
            stored_bytes(item, scheme, BITS) for item, scheme in self.resolve(assignment).items()
        )
        return size_bytes * 8 / self.source.spec.parameters(), size_bytes

    def recipe_of(self, assignment: Assignment, name: str) -> Recipe:
        bits, _ = self.stored_bits(assignment)
        mixed = with_assignment(self.recipe, assignment, self.source.spec)
        told = f"{mixed.description}; mix for {bits:.2f} bits per weight ({name})".removeprefix("; ")
        return replace(mixed, name=f"{self.recipe.name}-{bits:.2f}bit", description=told)


def solve_budget(
    groups: Sequence[TensorGroup], sensitivity: Sensitivity, limits: Sequence[Limit], task: MixTask
) -> knapsack.Solution:
    """The least predicted KL that fits every limit.

    One limit nearly always implies the others: each is solved alone, and a solution that fits all is the optimum. Where none
    does, each option counts with its largest bytes in any container, which fits all and may leave some bytes unspent.
    """
    losses = {loss.name: loss for loss in sensitivity.groups}
    kls = [[losses[group.name].kl(scheme) for scheme in group.schemes] for group in groups]
    free = {item.name for group in groups for item in group.tensors}
    fixed = {
        item: scheme for item, scheme in task.resolve(_extreme(groups, 0)).items() if item.name not in free
    }
    sizes = [[option_bytes(group, limit.container) for group in groups] for limit in limits]
    rooms = [limit.weight_bytes - limit.size_of(fixed) for limit in limits]
    found = []
    for size, room in zip(sizes, rooms, strict=True):
        solution = knapsack.solve(_options(size, kls), room)
        if all(
            sum(row[index] for row, index in zip(other, solution.chosen, strict=True)) <= limit
            for other, limit in zip(sizes, rooms, strict=True)
        ):
            found.append(solution)
    if found:
        return min(found, key=lambda solution: solution.loss)
    # Bytes over the lowest option, so that what a group costs anyway is not counted by another container's measure.
    least = [sum(min(row) for row in size) for size in sizes]
    extra = [
        [max(rows[at] - min(rows) for rows in per_group) for at in range(len(per_group[0]))]
        for per_group in zip(*sizes, strict=True)
    ]
    return knapsack.solve(
        _options(extra, kls), min(room - low for room, low in zip(rooms, least, strict=True))
    )


def _options(sizes: Sequence[Sequence[int]], kls: Sequence[Sequence[float]]) -> list[list[knapsack.Option]]:
    return [
        [knapsack.Option(size, kl) for size, kl in zip(row, losses, strict=True)]
        for row, losses in zip(sizes, kls, strict=True)
    ]


def naive_mixes(
    groups: Sequence[TensorGroup], limits: Sequence[Limit], task: MixTask
) -> dict[str, dict[str, TensorScheme]]:
    """What needs no measurement and fits the budget: the largest uniform recipe, and two orders in which to spend bytes."""
    lowest = _extreme(groups, 0)
    items = [item for group in groups for item in group.tensors]
    by_role = {item.name: getattr(task.recipe, item.role) for item in items}
    uniform = [lowest, by_role, *(dict.fromkeys(lowest, scheme) for scheme in task.budget.search.schemes)]
    fitting = [mix for mix in uniform if _fits(limits, task.resolve(mix))]
    mixes = {UNIFORM: max(fitting, key=lambda mix: task.stored_bits(mix)[1])}
    high = max(task.budget.search.schemes, key=lambda scheme: scheme.bits_per_weight)
    orders = {
        LLAMA_CPP_LIKE: naive.llama_cpp_order(task.source.spec, items),
        FIRST_AND_LAST: naive.first_and_last_order(task.source.spec, items),
    }
    for name, order in orders.items():
        mixes[name] = naive.spend(order, lowest, high, lambda mix: _fits(limits, task.resolve(mix)))
    return mixes


def _fits(limits: Sequence[Limit], schemes: Mapping[TensorSpec, TensorScheme]) -> bool:
    return all(limit.size_of(schemes) <= limit.weight_bytes for limit in limits)


def _extreme(groups: Sequence[TensorGroup], at: int) -> dict[str, TensorScheme]:
    return assign(groups, [group.schemes[at] for group in groups])


def _statistics(task: MixTask, text: CalibrationText, progress: Progress) -> Path | None:
    """Input statistics for the quick solver where the recipe's solver uses any; collected once and kept in `work`."""
    name = task.recipe.solver
    if name != AUTO and SOLVERS[name].needs == "nothing":
        return None
    from edgeport.export.calibrate.run import collect_statistics

    return collect_statistics(task.source, text, task.work, threads=task.threads, progress=progress)


def _measure(
    task: MixTask,
    solver: QuickSolver,
    groups: Sequence[TensorGroup],
    split: SplitText,
    progress: Progress,
) -> tuple[Sensitivity, list[str]]:
    """Sensitivity of all options, or only of the smallest where all would take longer than allowed; with what to tell."""
    search, notes = task.budget.search, []
    run = SensitivityRun(solver, groups, split.search, task.work, task.threads)
    if run.saved() is None:
        cost = sensitivity_cost(run, probe_speed(task.source.spec, task.threads))
        if search.most_seconds is not None and cost.seconds > search.most_seconds:
            notes.append(
                f"measuring every option would take about {format_seconds(cost.seconds)}: only the smallest scheme of each group "
                "was measured, the others are estimated from their squared error"
            )
            run = replace(run, only_lowest=True)
            cost = sensitivity_cost(run, probe_speed(task.source.spec, task.threads))
        with progress.stage(f"sensitivity, about {format_seconds(cost.seconds)}"):
            return run.measure(progress), notes
    return run.measure(progress), notes


def _compare(
    task: MixTask,
    mixes: Mapping[str, Assignment],
    solver: QuickSolver,
    split: SplitText,
    progress: Progress,
) -> list[Contender]:
    weights = {
        name: RecipeWeights(solver, with_assignment(task.recipe, mix, task.source.spec))
        for name, mix in mixes.items()
    }
    found = compare_weights(task.source, weights, split.check, threads=task.threads, progress=progress)
    return [Contender(name, *task.stored_bits(mix), found[name]) for name, mix in mixes.items()]


def _group_lines(
    groups: Sequence[TensorGroup], sensitivity: Sensitivity, mix: Assignment
) -> tuple[GroupLine, ...]:
    """A mix that splits a group (a naive one may) is told as `mixed`."""
    lines = []
    for group, loss in zip(groups, sensitivity.groups, strict=True):
        options = tuple(
            OptionLine(option.scheme, size, option.kl, option.estimated)
            for option, size in zip(loss.options, option_bytes(group, BITS), strict=True)
        )
        got = {str(mix[item.name]) for item in group.tensors}
        chosen = got.pop() if len(got) == 1 else "mixed"
        lines.append(GroupLine(group.name, len(group.tensors), chosen, options))
    return tuple(lines)


def _container_bytes(
    limits: Sequence[Limit], schemes: Mapping[TensorSpec, TensorScheme]
) -> dict[str, dict[str, int]]:
    return {
        limit.container: {
            "size_bytes": limit.size_of(schemes) + limit.overhead.size_bytes,
            "error_bytes": limit.overhead.error_bytes,
        }
        for limit in limits
        if limit.container != BITS
    }
