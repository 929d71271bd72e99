"""The methods by name. A new one is a file with `prepare` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from edgeport.export.sparsify.method import Method
from edgeport.lazy import load

Needs = Literal["nothing", "second_moment", "hessian"]


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """needs: what the calibration pass must gather. has_scope: scores of different rows can be compared."""

    target: str
    needs: Needs
    description: str
    has_scope: bool = False


METHODS: Mapping[str, MethodEntry] = {
    "magnitude": MethodEntry(
        "edgeport.export.sparsify.magnitude:prepare",
        "nothing",
        "the smallest weights go; no calibration",
        has_scope=True,
    ),
    "wanda": MethodEntry(
        "edgeport.export.sparsify.wanda:prepare",
        "second_moment",
        "the smallest products of weight and input norm go, row by row",
    ),
    "sparsegpt": MethodEntry(
        "edgeport.export.sparsify.sparsegpt:prepare",
        "hessian",
        "what costs least goes, and the weights that stay make it good",
    ),
}


def get_method(name: str) -> Method:
    """`name` is one of METHODS: `settings.check_settings` has seen to that."""
    return cast(Method, load(METHODS[name].target))
