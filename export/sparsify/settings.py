"""What to sparsify and how far: checked once, told all at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeport.errors import UsageError
from edgeport.export.sparsify.methods import METHODS
from edgeport.export.sparsify.pattern import PATTERNS

SCOPES = ("row", "tensor")
MOST_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class SparsifySettings:
    """sparsity: share of zeros in each linear of the decoder. scope: what competes for staying, for methods that can choose.

    rounds: above one, sparsity grows along a cubic schedule, and scores are taken anew after each round.
    """

    method: str = "wanda"
    sparsity: float = 0.5
    pattern: str = "unstructured"
    scope: str = "row"
    rounds: int = 1

    def to_document(self) -> dict[str, Any]:
        """Plain values; `parse_sparsify` reads them back."""
        return asdict(self)


def parse_sparsify(document: Mapping[str, Any], *, problems: list[str]) -> SparsifySettings:
    """Settings from plain values; what is wrong with them is added to `problems`, and defaults stand in for it."""
    default = SparsifySettings()
    allowed = tuple(default.to_document())
    for key in document:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    method = _one_of(document, "method", tuple(METHODS), problems)
    pattern = _one_of(document, "pattern", tuple(PATTERNS), problems)
    scope = _one_of(document, "scope", SCOPES, problems)
    rounds = document.get("rounds", default.rounds)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        problems.append(f"rounds is {rounds!r}, expected a whole number from 1 to {MOST_ROUNDS}")
        rounds = default.rounds
    sparsity = _sparsity(document, pattern, problems)
    if scope == "tensor" and not (METHODS[method].has_scope and pattern == "unstructured"):
        able = ", ".join(name for name, entry in METHODS.items() if entry.has_scope)
        problems.append(f"scope 'tensor' is for method {able} and pattern unstructured")
    if rounds > 1 and PATTERNS[pattern].group:
        problems.append(f"rounds is {rounds}: pattern {pattern} is whole or not there, it takes one round")
    return SparsifySettings(method, sparsity, pattern, scope, rounds)


def check_settings(settings: SparsifySettings) -> None:
    """Raises UsageError with every problem."""
    problems: list[str] = []
    parse_sparsify(settings.to_document(), problems=problems)
    if problems:
        raise UsageError(
            "sparsify: " + "; ".join(problems),
            hint=f"methods are {', '.join(METHODS)}; patterns {', '.join(PATTERNS)}",
        )


def _one_of(document: Mapping[str, Any], key: str, allowed: tuple[str, ...], problems: list[str]) -> str:
    default: str = getattr(SparsifySettings(), key)
    value = document.get(key, default)
    if value in allowed:
        return str(value)
    problems.append(f"{key} is {value!r}, expected one of {', '.join(allowed)}")
    return default


def _sparsity(document: Mapping[str, Any], pattern: str, problems: list[str]) -> float:
    """A pattern fixes it; where it is not given, the pattern's own is meant."""
    fixed = PATTERNS[pattern].sparsity
    value = document.get("sparsity", SparsifySettings().sparsity if fixed is None else fixed)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        problems.append(f"sparsity is {value!r}, expected a share between 0 and 1")
        return SparsifySettings().sparsity
    if fixed is not None and value != fixed:
        problems.append(f"sparsity is {value}, pattern {pattern} has {fixed}")
    return float(value)
