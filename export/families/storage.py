"""Where a canonical tensor lies in a source folder.

Most families store what the spec lists. Phi-3 keeps query, key and value in one matrix, and gate and up in another; Gemma stores
a norm's weight minus one. Everything between the source and the writers works on canonical tensors: canonical_weights reads
them, canonical_modules gives a torch network their names, and formats/safetensors lays them out as the family does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgeport.errors import UnsupportedModel

FUSED_ATTENTION = ("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
FUSED_FEED_FORWARD = ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))


@dataclass(frozen=True, slots=True)
class Storage:
    """fused: (module in the source, the canonical modules whose rows it holds one after the other).

    norm_offset: what the network adds to a norm's stored weight before it multiplies.
    """

    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    norm_offset: float = 0.0

    @property
    def is_plain(self) -> bool:
        return not self.fused and not self.norm_offset

    def group(self, name: str) -> tuple[str, tuple[str, ...]]:
        """(stored name, canonical names of what it holds) of a canonical tensor name: itself where nothing is fused."""
        for stored, parts in self.fused:
            for part in parts:
                if f".{part}." in name:
                    return name.replace(part, stored), tuple(name.replace(part, other) for other in parts)
        return name, (name,)


PLAIN_STORAGE = Storage()


def require_plain(storage: Storage, family: str, work: str) -> None:
    """Raises UnsupportedModel where `work` ("pruning", ...) writes a folder by canonical names and the family's are others."""
    if storage.is_plain:
        return
    raise UnsupportedModel(
        f"{work} cannot write a model of family {family} back: its folder stores "
        + ("fused matrices" if storage.fused else "norm weights minus one"),
        hint="quantize it as it is: every solver works on this family",
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """rows: [first, one past the last) of the stored tensor; None for all of it. added: to every value, in float32."""

    name: str
    rows: tuple[int, int] | None = None
    added: float = 0.0


def where_stored(storage: Storage, items: Iterable[Any]) -> dict[str, Stored]:
    """Canonical name -> its place. items: the spec's TensorSpecs, all parts of a fused tensor among them."""
    listed = list(items)
    rows = {item.name: item.shape[0] for item in listed}
    found = {}
    for item in listed:
        name, parts = storage.group(item.name)
        added = storage.norm_offset if item.role == "norm" else 0.0
        if len(parts) == 1:
            found[item.name] = Stored(name, None, added)
            continue
        begin = sum(rows[part] for part in parts[: parts.index(item.name)])
        found[item.name] = Stored(name, (begin, begin + rows[item.name]), added)
    return found


def stored_shapes(storage: Storage, items: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor the folder must hold, by its stored name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for item in items:
        name, _ = storage.group(item.name)
        before = shapes.get(name)
        rows = item.shape[0] + (before[0] if before else 0)
        shapes[name] = (rows, *item.shape[1:])
    return shapes
