"""What the mix may weigh: bits per weight, or bytes of the largest container; and what each choice weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeport.errors import DoesNotFit, UsageError
from edgeport.export.families.decoder import EMBEDDING, DecoderSpec, TensorSpec
from edgeport.export.mix.groups import Assignment, TensorGroup
from edgeport.export.mix.overhead import Overhead, container_overhead
from edgeport.export.recipe import Recipe, snap
from edgeport.export.source import SourceModel
from edgeport.scheme import TensorScheme
from edgeport.units import format_bytes

DEFAULT_SCHEMES = (TensorScheme("int4", 32), TensorScheme("int8", 32))
BITS = "checkpoint"
"""The name of what `target_bits` measures."""


@dataclass(frozen=True, slots=True)
class MixSearch:
    """schemes: what a group may get. per_tensor: decide tensor by tensor, not by the groups engines fuse; None: by groups
    only where `safetensors` is among the formats, because vLLM wants one scheme for what it fuses.

    windows of n_ctx tokens measure sensitivity, check_windows others compare the finished mixes. Groups whose every option
    would take longer than most_seconds to measure have only their smallest measured and the others estimated.
    """

    schemes: tuple[TensorScheme, ...] = DEFAULT_SCHEMES
    per_tensor: bool | None = None
    windows: int = 8
    check_windows: int = 16
    n_ctx: int = 256
    most_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MixBudget:
    """Exactly one of: target_bits, all stored bits (scales, norms) over all parameters; target_bytes, the files of the
    largest container in `formats`, tokenizer and graph included."""

    target_bits: float | None = None
    target_bytes: int | None = None
    formats: tuple[str, ...] = ()
    search: MixSearch = MixSearch()

    def __post_init__(self) -> None:
        if (self.target_bits is None) == (self.target_bytes is None):
            raise UsageError("give --target-bits or --target-size, not both and not neither")
        wanted = self.target_bits if self.target_bits is not None else self.target_bytes
        if wanted is None or not wanted > 0:
            raise UsageError(f"the budget is {wanted}", hint="it must be above zero")
        if self.target_bytes is not None and not self.formats:
            raise UsageError("--target-size is the size of a container", hint="name at least one --format")

    @property
    def per_tensor(self) -> bool:
        wanted = self.search.per_tensor
        return "safetensors" not in self.formats if wanted is None else wanted

    def to_document(self) -> dict[str, object]:
        """Plain values for the report."""
        return {
            "target_bits": self.target_bits,
            "target_bytes": self.target_bytes,
            "formats": list(self.formats),
            "schemes": [str(scheme) for scheme in self.search.schemes],
            "per_tensor": self.per_tensor,
        }


@dataclass(frozen=True, slots=True)
class Limit:
    """One container's share of a budget: its weights may take `weight_bytes`, after what else it holds."""

    container: str
    weight_bytes: int
    overhead: Overhead

    def size_of(self, schemes: Mapping[TensorSpec, TensorScheme]) -> int:
        return sum(stored_bytes(item, scheme, self.container) for item, scheme in schemes.items())


def budget_limits(source: SourceModel, recipe: Recipe, budget: MixBudget) -> tuple[Limit, ...]:
    """One limit for `target_bits`, one per container for `target_bytes`."""
    if budget.target_bits is not None:
        weight_bytes = int(budget.target_bits * source.spec.parameters() / 8)
        return (Limit(BITS, weight_bytes, Overhead(0, 0)),)
    assert budget.target_bytes is not None
    limits = []
    for container in dict.fromkeys(budget.formats):
        overhead = container_overhead(source, recipe, container)
        limits.append(Limit(container, budget.target_bytes - overhead.most_bytes, overhead))
    return tuple(limits)


def all_schemes(spec: DecoderSpec, recipe: Recipe, assignment: Assignment) -> dict[TensorSpec, TensorScheme]:
    """The scheme of every tensor of the model: the assignment's, or what the recipe says."""
    return {
        item: snap(assignment[item.name], item.shape[-1])
        if item.name in assignment
        else recipe.scheme_for(item)
        for item in spec.tensors()
    }


def stored_bytes(item: TensorSpec, scheme: TensorScheme, container: str) -> int:
    """Bytes of one tensor's codes and scales in a container, as `request.packed_bytes` adds them up."""
    if scheme.is_quantized and container == "gguf":
        scheme = TensorScheme(scheme.kind, 32)
    if scheme.is_quantized and container == "safetensors" and item.name == EMBEDDING:
        scheme = TensorScheme("f16")
    count = 1
    for size in item.shape:
        count *= size
    return round(count * scheme.bits_per_weight / 8)


def option_bytes(group: TensorGroup, container: str) -> list[int]:
    """Bytes of the whole group under each of its schemes."""
    return [
        sum(stored_bytes(item, snap(scheme, item.shape[-1]), container) for item in group.tensors)
        for scheme in group.schemes
    ]


def require_possible(
    source: SourceModel, budget: MixBudget, limits: Sequence[Limit], lowest: Mapping[TensorSpec, TensorScheme]
) -> None:
    """Raises DoesNotFit, naming the smallest possible, when even the lowest schemes exceed the budget."""
    for limit in limits:
        least = limit.size_of(lowest)
        if least <= limit.weight_bytes:
            continue
        menu = ", ".join(map(str, budget.search.schemes))
        if budget.target_bits is not None:
            bits = least * 8 / source.spec.parameters()
            raise DoesNotFit(
                f"{budget.target_bits:g} bits per weight are fewer than the {bits:.3f} that the smallest of {menu} take",
                hint=f"the least possible is --target-bits {_up(bits)}; scales and norms are counted",
            )
        smallest = least + limit.overhead.most_bytes
        raise DoesNotFit(
            f"{format_bytes(budget.target_bytes or 0)} cannot hold {limit.container}: weights take {format_bytes(least)} in the "
            f"smallest of {menu}, tokenizer and graph at most {format_bytes(limit.overhead.most_bytes)}",
            hint=f"the least possible is --target-size {smallest}; "
            "a smaller model, or fewer --format, where another container is smaller",
        )


def unspent(
    source: SourceModel,
    budget: MixBudget,
    limits: Sequence[Limit],
    highest: Mapping[TensorSpec, TensorScheme],
) -> str | None:
    """What to tell when the highest schemes leave budget over; None when they do not."""
    if any(limit.size_of(highest) > limit.weight_bytes for limit in limits):
        return None
    if budget.target_bits is not None:
        bits = limits[0].size_of(highest) * 8 / source.spec.parameters()
        return f"{budget.target_bits:g} bits per weight are more than the highest schemes take: {bits:.3f}"
    largest = max(limit.size_of(highest) + limit.overhead.most_bytes for limit in limits)
    return (
        f"{format_bytes(budget.target_bytes or 0)} are more than the highest schemes take: at most "
        f"{format_bytes(largest)} in the largest container"
    )


def _up(bits: float) -> str:
    return f"{-(-bits * 1000 // 1) / 1000:.3f}"
