"""What the mix decides about: single tensors, or groups of tensors that get one scheme together.

Groups are the linears of a layer that share an input (q, k and v; gate and up), because engines multiply them at once: vLLM
refuses different schemes there, and the ONNX writer makes three products of one.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeport.export.families.decoder import EMBEDDING, DecoderSpec, TensorSpec
from edgeport.export.recipe import Recipe, snap
from edgeport.scheme import TensorScheme

BEFORE_LAYERS = -1
_PARTS = {
    "self_attn.q_proj": "qkv",
    "self_attn.k_proj": "qkv",
    "self_attn.v_proj": "qkv",
    "mlp.gate_proj": "gate_up",
    "mlp.up_proj": "gate_up",
}
_SHORT = {"self_attn.o_proj": "o", "mlp.down_proj": "down"}


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """layer: where it takes part, BEFORE_LAYERS for the embedding, the number of layers for the head.

    schemes: what it may get, smallest first; a tensor whose rows a block does not divide gets `recipe.snap` of it.
    """

    name: str
    layer: int
    tensors: tuple[TensorSpec, ...]
    schemes: tuple[TensorScheme, ...]

    @property
    def weights(self) -> int:
        return sum(item.shape[0] * item.shape[1] for item in self.tensors)


Assignment = Mapping[str, TensorScheme]
"""Tensor name -> scheme."""


def tensor_groups(
    spec: DecoderSpec, recipe: Recipe, schemes: Sequence[TensorScheme], *, per_tensor: bool = False
) -> tuple[TensorGroup, ...]:
    """Groups in the order of computation. Tensors that an override of the recipe names are the user's decision and in none."""
    found: dict[str, tuple[int, list[TensorSpec]]] = {}
    for layer, item in _quantizable(spec):
        if any(fnmatch.fnmatchcase(item.name, pattern) for pattern in recipe.overrides):
            continue
        name = item.name if per_tensor and item.role == "linear" else _group_name(layer, item)
        found.setdefault(name, (layer, []))[1].append(item)
    groups = (
        TensorGroup(name, layer, tuple(items), distinct(items, schemes))
        for name, (layer, items) in found.items()
    )
    return tuple(sorted(groups, key=lambda group: group.layer))


def distinct(items: Sequence[TensorSpec], schemes: Sequence[TensorScheme]) -> tuple[TensorScheme, ...]:
    """`schemes` by size, without those that snap to the same thing for every tensor in `items`."""
    seen: dict[tuple[TensorScheme, ...], TensorScheme] = {}
    for scheme in sorted(schemes, key=lambda scheme: (scheme.bits_per_weight, str(scheme))):
        seen.setdefault(tuple(snap(scheme, item.shape[1]) for item in items), scheme)
    return tuple(seen.values())


def with_assignment(recipe: Recipe, assignment: Assignment, spec: DecoderSpec) -> Recipe:
    """The recipe with an override for each tensor whose scheme is not its role's; the recipe's own overrides stay first."""
    roles = {item.name: item.role for item in spec.tensors()}
    added = {
        glob.escape(name): scheme
        for name, scheme in assignment.items()
        if getattr(recipe, roles[name]) != scheme
    }
    return replace(recipe, overrides={**recipe.overrides, **added})


def assign(groups: Sequence[TensorGroup], schemes: Sequence[TensorScheme]) -> dict[str, TensorScheme]:
    """One scheme per group, spelt out per tensor."""
    return {
        item.name: scheme for group, scheme in zip(groups, schemes, strict=True) for item in group.tensors
    }


def _quantizable(spec: DecoderSpec) -> Iterator[tuple[int, TensorSpec]]:
    for item in spec.tensors():
        if item.name == EMBEDDING:
            yield BEFORE_LAYERS, item
        elif item.role == "head":
            yield spec.layers, item
    for layer in range(spec.layers):
        for item in spec.layer_tensors(layer):
            if item.role == "linear":
                yield layer, item


def _group_name(layer: int, item: TensorSpec) -> str:
    if item.role != "linear":
        return item.role
    module = item.name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight")
    return f"layers.{layer}.{_PARTS.get(module) or _SHORT.get(module, module)}"
