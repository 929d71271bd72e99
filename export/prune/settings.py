"""What is cut and how it is chosen, as plain values: from the command line or a table of a recipe."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeport.errors import UsageError

Amount = int | float
"""A float is the share that is kept, above 0 and at most 1; an int is the number that is kept."""

IMPORTANCES: Mapping[str, tuple[str, ...]] = {
    "layers": ("activation", "last", "random"),
    "ffn": ("activation", "magnitude", "random"),
    "heads": ("activation", "magnitude", "random"),
    "embedding": ("activation", "magnitude", "random"),
}
"""What each amount may be ranked by; for layers `activation` is block influence."""

SNAPS = (32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """ffn, heads, layers, embedding: what is kept of the feed-forward width, the query heads, the layers and the hidden
    width; None cuts nothing. vocabulary: a text file, a folder, or `auto`; the tokens it uses are kept.

    importance: see IMPORTANCES. reconstruct: solve the kept columns of o_proj and down_proj for what was cut away. snap: widths
    become multiples of it; None: what the formats want. seed: for importance `random`. per_layer: widths may differ.
    """

    ffn: Amount | None = None
    heads: Amount | None = None
    layers: Amount | None = None
    embedding: Amount | None = None
    vocabulary: str | None = None
    importance: str = "activation"
    reconstruct: bool = True
    snap: int | None = None
    seed: int = 0
    per_layer: bool = False

    def amounts(self) -> dict[str, Amount]:
        """What was asked for, by the names of IMPORTANCES."""
        wanted = {name: getattr(self, name) for name in IMPORTANCES}
        return {name: amount for name, amount in wanted.items() if amount is not None}

    def to_document(self) -> dict[str, Any]:
        """Plain values without what is None; `parse_prune` reads them back."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def parse_amount(text: str) -> Amount:
    """`0.75` and `1.0` are shares, `576` is a number. Raises UsageError for anything else."""
    if re.fullmatch(r"[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[0-9]*\.[0-9]+", text):
        return float(text)
    raise UsageError(
        f"not an amount: {text!r}", hint="write the share to keep with a point, 0.75, or a number, 576"
    )


def parse_prune(document: Mapping[str, Any], *, problems: list[str]) -> PruneSettings:
    """Settings from plain values; every error is appended to `problems`."""
    allowed = PruneSettings.__dataclass_fields__
    for key in document:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    count = len(problems)
    for name in IMPORTANCES:
        _check_amount(name, document.get(name), problems)
    _check_type(document, "vocabulary", str, problems)
    for name in ("reconstruct", "per_layer"):
        _check_type(document, name, bool, problems)
    for name in ("snap", "seed"):
        _check_type(document, name, int, problems)
    if document.get("snap") is not None and document["snap"] not in SNAPS:
        problems.append(f"snap is {document['snap']!r}, allowed are {', '.join(map(str, SNAPS))}")
    _check_importance(document, problems)
    if len(problems) > count:
        return PruneSettings()
    return PruneSettings(**{key: value for key, value in document.items() if key in allowed})


def settings_from(document: Mapping[str, Any]) -> PruneSettings:
    """The same for one caller. Raises UsageError with every problem."""
    problems: list[str] = []
    settings = parse_prune(document, problems=problems)
    if problems:
        raise UsageError("pruning: " + "; ".join(problems), hint="docs/pruning.md has every setting")
    return settings


def _check_amount(name: str, amount: Any, problems: list[str]) -> None:
    if amount is None:
        return
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        problems.append(f"{name} is {amount!r}, expected a share such as 0.75 or a number such as 576")
    elif isinstance(amount, float) and not 0 < amount <= 1:
        problems.append(f"{name} is {amount:g}, a share kept is above 0 and at most 1")
    elif isinstance(amount, int) and amount < 1:
        problems.append(f"{name} is {amount}, at least 1 has to be kept")


def _check_type(document: Mapping[str, Any], name: str, kind: type, problems: list[str]) -> None:
    value = document.get(name)
    wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    if value is not None and wrong:
        problems.append(f"{name} is {value!r}, expected {kind.__name__}")


def _check_importance(document: Mapping[str, Any], problems: list[str]) -> None:
    importance = document.get("importance", "activation")
    known = {name for names in IMPORTANCES.values() for name in names}
    if importance not in known:
        problems.append(f"unknown importance {importance!r}, allowed are {', '.join(sorted(known))}")
        return
    for name, names in IMPORTANCES.items():
        if document.get(name) is not None and importance not in names:
            problems.append(f"importance {importance!r} cannot rank {name}, allowed are {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
