"""What the search tries: every combination of what is kept of the shape and how its weights are stored, each with a plan."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.prune.settings import Amount
from edgeport.export.recipe import Recipe, load_recipe, parse
from edgeport.export.recipe_file import write_recipe
from edgeport.export.request import ExportPlan, ExportRequest, make_plan
from edgeport.units import format_bytes

WHOLE: Amount = 1.0
"""A share that prunes nothing."""
_AXES = ("ffn", "heads", "layers", "embedding")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What is combined: amounts kept per axis, as `edgeport prune` takes them, and recipes by name or file.

    minutes, text: of the recovery of each pruned shape; 0 minutes for none. The recipes' own pruning is replaced.
    """

    ffn: tuple[Amount, ...] = (WHOLE, 0.875, 0.75)
    heads: tuple[Amount, ...] = (WHOLE,)
    layers: tuple[Amount, ...] = (WHOLE,)
    embedding: tuple[Amount, ...] = (WHOLE,)
    recipes: tuple[str, ...] = ("int4", "int8")
    minutes: float = 5.0
    text: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        empty = [name for name in (*_AXES, "recipes") if not getattr(self, name)]
        if empty:
            raise UsageError(
                f"nothing to try for {', '.join(empty)}", hint="give at least one value, 1.0 keeps all"
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """Beside what the device's memory allows: size_bytes of the weights of the largest container, predicted decode speed."""

    size_bytes: int | None = None
    decode_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """recipe: also written to `file`. plan: None where it cannot be, and `refused` says why. decode_tokens_per_s: predicted,
    of the fastest engine that the device has."""

    name: str
    recipe: Recipe
    file: Path
    plan: ExportPlan | None
    refused: str = ""
    decode_tokens_per_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        assert self.plan is not None
        return max(self.plan.sizes_bytes[name] for name in self.plan.portable)

    @property
    def memory_bytes(self) -> int:
        """To run, in the engine of the device that needs least."""
        assert self.plan is not None
        return min(fit.memory.required_bytes for fit in self.plan.fits)


def make_candidates(space: SearchSpace, base: ExportRequest, limits: Limits, folder: Path) -> list[Candidate]:
    """All combinations, least pruned first; recipes are written to `folder`. Raises UsageError for one that says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    found, shapes = [], itertools.product(*(getattr(space, axis) for axis in _AXES))
    for amounts, recipe_name in itertools.product(list(shapes), space.recipes):
        cut = {axis: kept for axis, kept in zip(_AXES, amounts, strict=True) if not _is_whole(kept)}
        found.append(_candidate(cut, load_recipe(recipe_name), space, (base, limits, folder)))
    names = [item.name for item in found]
    if len(set(names)) < len(names):
        raise UsageError(f"the same combination twice: {', '.join(names)}", hint="give each value once")
    return found


def _candidate(
    cut: Mapping[str, Amount],
    recipe: Recipe,
    space: SearchSpace,
    frame: tuple[ExportRequest, Limits, Path],
) -> Candidate:
    base, limits, folder = frame
    name = "-".join([*(f"{axis}{kept:g}" for axis, kept in cut.items()), recipe.name])
    recipe = _combined(cut, replace(recipe, prune=None, recover=None), space, name)
    file = folder / f"{name}.toml"
    write_recipe(recipe, file)
    request = replace(base, recipe=str(file), gate=replace(base.gate, enabled=False))
    try:
        plan = make_plan(request)
    except DoesNotFit as error:
        return Candidate(name, recipe, file, None, error.message)
    fitting = [fit for fit in plan.fits if fit.fits]
    speed = max((fit.speed.decode_tokens_per_s for fit in fitting), default=0.0)
    found = Candidate(name, recipe, file, plan, decode_tokens_per_s=speed)
    return replace(found, refused=_beyond(found, limits))


def _is_whole(kept: Amount) -> bool:
    """The number 1 is one layer, the share 1.0 is all of them."""
    return isinstance(kept, float) and kept == WHOLE


def _combined(cut: Mapping[str, Amount], recipe: Recipe, space: SearchSpace, name: str) -> Recipe:
    document: dict[str, Any] = {**recipe.to_document(), "name": name}
    if cut:
        document["prune"] = {**cut, "snap": 32}
        document["description"] = f"{recipe.name} of a pruned model: " + ", ".join(
            f"{axis} {kept:g}" for axis, kept in cut.items()
        )
        if space.minutes > 0:
            document["recover"] = {"minutes": space.minutes, "text": list(space.text)}
    return parse(document, default_name=name)


def _beyond(candidate: Candidate, limits: Limits) -> str:
    if limits.size_bytes is not None and candidate.size_bytes > limits.size_bytes:
        return (
            f"{format_bytes(candidate.size_bytes)} of weights, allowed are {format_bytes(limits.size_bytes)}"
        )
    wanted = limits.decode_tokens_per_s
    if wanted is not None and candidate.decode_tokens_per_s < wanted:
        return f"{candidate.decode_tokens_per_s:.0f} tokens/s predicted, wanted are {wanted:.0f}"
    return ""
