"""Which candidate wins: within the limits, by what the user prefers; and which ones nothing else beats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UsageError


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate. Quality is None where it was not measured, because `refused` says no before.

    size_bytes: of the weights of the largest container; memory_bytes, decode_tokens_per_s: predicted for the device.
    perplexity_ratio, mean_kl_divergence, same_top1: against the source, in the engine named by `runtime`.
    """

    name: str
    parameters: int
    size_bytes: int
    memory_bytes: int
    decode_tokens_per_s: float
    perplexity_ratio: float | None = None
    mean_kl_divergence: float | None = None
    same_top1: float | None = None
    runtime: str = ""
    refused: str = ""

    @property
    def loss(self) -> float:
        """What the front is drawn against."""
        assert self.mean_kl_divergence is not None
        return self.mean_kl_divergence


_PREFERENCES: Mapping[str, Callable[[Measured], Any]] = {
    "quality": lambda item: (item.loss, item.size_bytes),
    "size": lambda item: (item.size_bytes, item.loss),
    "speed": lambda item: (-item.decode_tokens_per_s, item.loss),
}
PREFERENCES = tuple(_PREFERENCES)


def front(items: Sequence[Measured]) -> list[Measured]:
    """The Pareto front, smallest first: no other measured one is at most as large and loses less."""
    found: list[Measured] = []
    for item in sorted(measured(items), key=lambda item: (item.size_bytes, item.loss)):
        if not found or item.loss < found[-1].loss:
            found.append(item)
    return found


def measured(items: Sequence[Measured]) -> list[Measured]:
    return [item for item in items if item.mean_kl_divergence is not None]


def ranking(items: Sequence[Measured], *, prefer: str, most_loss: float) -> list[Measured]:
    """Candidates whose perplexity is at most `most_loss` worse, best first. Raises UsageError for an unknown preference."""
    if prefer not in _PREFERENCES:
        raise UsageError(f"unknown preference {prefer!r}", hint=f"preferences are {', '.join(PREFERENCES)}")
    fit = [item for item in measured(items) if _ratio(item) <= 1 + most_loss and not item.refused]
    return sorted(fit, key=_PREFERENCES[prefer])


def _ratio(item: Measured) -> float:
    return item.perplexity_ratio if item.perplexity_ratio is not None else float("inf")
