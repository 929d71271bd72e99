"""A recipe: what is pruned and recovered, which kind each tensor gets and which solver decides the codes. Read from TOML;
every error is told at once."""

from __future__ import annotations

import difflib
import fnmatch
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from edgeport.errors import RecipeError
from edgeport.export.families.decoder import TensorSpec
from edgeport.export.prune.settings import PruneSettings, parse_prune
from edgeport.export.quantize.solvers import AUTO, SOLVERS
from edgeport.export.recover.settings import DistillSettings, parse_distill
from edgeport.scheme import BLOCK_SIZES, FLOAT_KINDS, Kind, TensorScheme

RECIPES_DIRECTORY = Path(__file__).parent / "recipes"
_ROLES = ("linear", "embedding", "head")
_Settings = TypeVar("_Settings")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Schemes by role; `overrides` maps a shell pattern over tensor names to a scheme, first match wins.

    prune, recover: what happens to the float model first; None for nothing. teacher: a model folder or hub id that recovery
    learns from; None: the source itself.
    Norms and biases stay in float32: they are a thousandth of the bytes and every container can hold them.
    """

    name: str
    description: str
    linear: TensorScheme
    embedding: TensorScheme
    head: TensorScheme
    solver: str = "rtn"
    overrides: Mapping[str, TensorScheme] = field(default_factory=dict)
    prune: PruneSettings | None = None
    recover: DistillSettings | None = None
    teacher: str | None = None

    @property
    def prepares(self) -> bool:
        """Whether the weights are changed before they are quantized."""
        return self.prune is not None or self.recover is not None

    def scheme_for(self, tensor: TensorSpec) -> TensorScheme:
        """The scheme of one tensor, after snapping the block to what divides its rows."""
        return snap(self.wanted_for(tensor), tensor.shape[-1])

    def wanted_for(self, tensor: TensorSpec) -> TensorScheme:
        """What the recipe asks for, whether or not the block divides the tensor's rows."""
        if tensor.role in ("norm", "bias"):
            return TensorScheme("f32")
        for pattern, scheme in self.overrides.items():
            if fnmatch.fnmatchcase(tensor.name, pattern):
                return scheme
        by_role: TensorScheme = getattr(self, tensor.role)
        return by_role

    def to_document(self) -> dict[str, Any]:
        """Plain values for the manifest; `parse` reads them back."""
        document: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "solver": self.solver,
            **{role: str(getattr(self, role)) for role in _ROLES},
            "overrides": {pattern: str(scheme) for pattern, scheme in self.overrides.items()},
        }
        if self.prune is not None:
            document["prune"] = self.prune.to_document()
        if self.recover is not None:
            teacher = {"teacher": self.teacher} if self.teacher is not None else {}
            document["recover"] = {**self.recover.to_document(), **teacher}
        return document


def snap(scheme: TensorScheme, in_features: int) -> TensorScheme:
    """The same kind with the largest allowed block that divides `in_features`; float16 where even 32 does not."""
    if not scheme.is_quantized or in_features % scheme.block == 0:
        return scheme
    for block in sorted(BLOCK_SIZES, reverse=True):
        if block < scheme.block and in_features % block == 0:
            return TensorScheme(scheme.kind, block)
    return TensorScheme("f16")


def parse_scheme(text: str) -> TensorScheme:
    """`int4-g32`, `int8-g64`, `int2`, `bf16`, ... Raises RecipeError naming what is allowed."""
    if text in FLOAT_KINDS:
        return TensorScheme(text)
    match = re.fullmatch(r"(int2|int4|int8)(?:-g(\d+))?", text)
    block = int(match.group(2) or 32) if match else 0
    if match is None or block not in BLOCK_SIZES:
        raise RecipeError(
            f"unknown scheme {text!r}",
            hint="schemes are int2, int4 and int8 with -g32, -g64 or -g128, and bf16, f16, f32",
        )
    return TensorScheme(cast(Kind, match.group(1)), block)


def scheme_warnings(recipe: Recipe) -> list[str]:
    """What people should know before they export with such schemes; empty for the sound ones."""
    schemes = (recipe.linear, recipe.embedding, recipe.head, *recipe.overrides.values())
    if all(scheme.kind != "int2" for scheme in schemes):
        return []
    told = [
        "int2 keeps four values per weight: on the 5.6M reference model perplexity rose by 38 % with solver gptq+imatrix "
        "(int4: by 3 % even with rtn); measure before you ship it"
    ]
    if recipe.solver == "rtn":
        told.append(
            "int2 rounded to nearest more than doubled that perplexity: choose a solver that calibrates"
        )
    return told


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES_DIRECTORY.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a TOML file. Raises RecipeError with every problem of the file."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES_DIRECTORY / f"{name_or_path}.toml"
        if not path.is_file():
            near = difflib.get_close_matches(name_or_path, recipe_names(), n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise RecipeError(
                f"unknown recipe {name_or_path!r}{meant}",
                hint=f"recipes are {', '.join(recipe_names())}, or a .toml file",
            )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except ValueError as error:  # TOMLDecodeError, or UnicodeDecodeError
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error
    return parse(document, default_name=path.stem)


def parse(document: Mapping[str, Any], *, default_name: str) -> Recipe:
    """Build a recipe from plain values; collects all errors, then raises once."""
    problems: list[str] = []
    allowed = ("name", "description", "solver", "overrides", "prune", "recover", *_ROLES)
    for key in document:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    schemes = {role: _scheme(document, role, problems) for role in _ROLES}
    solver = document.get("solver", "rtn")
    if solver != AUTO and solver not in SOLVERS:
        problems.append(f"unknown solver {solver!r}, solvers are {AUTO}, {', '.join(SOLVERS)}")
    overrides = {}
    table = document.get("overrides", {})
    if not isinstance(table, Mapping):
        problems.append(f"overrides is {table!r}, expected a table of tensor-name pattern = scheme")
        table = {}
    for pattern, text in table.items():
        try:
            overrides[pattern] = parse_scheme(str(text))
        except RecipeError as error:
            problems.append(f"overrides.{pattern}: {error.message}")
    prune = _table(document, "prune", problems)
    recover = _table(document, "recover", problems)
    teacher = recover.pop("teacher", None) if recover is not None else None
    if teacher is not None and not isinstance(teacher, str):
        problems.append(f"recover.teacher is {teacher!r}, expected a model folder or a hub id")
    prune_settings = _stage("prune", prune, parse_prune, problems)
    recover_settings = _stage("recover", recover, parse_distill, problems)
    if problems:
        raise RecipeError(
            f"recipe {default_name!r}: " + "; ".join(problems), hint=f"keys are {', '.join(allowed)}"
        )
    return Recipe(
        name=str(document.get("name", default_name)),
        description=str(document.get("description", "")),
        linear=schemes["linear"],
        embedding=schemes["embedding"],
        head=schemes["head"],
        solver=solver,
        overrides=overrides,
        prune=prune_settings,
        recover=recover_settings,
        teacher=teacher,
    )


def _table(document: Mapping[str, Any], name: str, problems: list[str]) -> dict[str, Any] | None:
    value = document.get(name)
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    problems.append(f"{name} is {value!r}, expected a table")
    return None


def _stage(
    name: str, table: Mapping[str, Any] | None, parse_stage: Callable[..., _Settings], problems: list[str]
) -> _Settings | None:
    """Settings of a stage of the float model; its problems get the table's name."""
    if table is None:
        return None
    found: list[str] = []
    settings = parse_stage(table, problems=found)
    problems.extend(f"{name}: {problem}" for problem in found)
    return settings


def _scheme(document: Mapping[str, Any], role: str, problems: list[str]) -> TensorScheme:
    try:
        if role not in document:
            raise RecipeError(f"missing key {role!r}")
        return parse_scheme(str(document[role]))
    except RecipeError as error:
        problems.append(f"{role}: {error.message}")
        return TensorScheme("f32")
