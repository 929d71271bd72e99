"""The plan the other way round: how large a model a device holds, by precision and context, and how fast it would be.

Sizes are those of a ladder of llama-like shapes (grouped-query attention with 8 key/value heads, a gated feed-forward part 3.5
times the hidden width): widths and depths of the Llama 3 family (arXiv:2407.21783) with the layers in between. Models of another
build differ: fewer key/value heads or a larger vocabulary move the limit by a few percent.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeport.devices.config_shape import shape_from_config
from edgeport.devices.memory import Workload
from edgeport.devices.plan_containers import container_of
from edgeport.devices.plan_place import place
from edgeport.devices.plan_row import PlanRow, plan_row
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.units import format_count

CONTEXTS = (2048, 8192, 32768)
WIDTHS = (512, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 8192, 12288, 16384)
FEWEST_LAYERS, MOST_LAYERS = 1 / 160, 1 / 96
"""Layers per unit of hidden width; the Llama 3 family has 1/130 (405B) to 1/102 (70B)."""
TRAINED_CONTEXT = 131_072
KV_HEADS = 8
WIDEST_TIED, WIDEST_SMALL_VOCABULARY, WIDEST_NARROW_HEAD = 3072, 1024, 2048


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest rung of the ladder that fits; parameters 0 and row None when not even the smallest does.

    is_top: the ladder ends there, larger models may fit too.
    """

    device: str
    format: str
    precision: str
    context_length: int
    parameters: int
    row: PlanRow | None
    is_top: bool = False


def size_limit(
    profile: DeviceProfile, format_name: str, engine: str, precision: str, workload: Workload
) -> SizeLimit:
    """Bisection over the ladder with the same placement as the forward plan."""
    rungs = ladder()

    def holds(index: int) -> bool:
        container = container_of(rungs[index], format_name, precision)
        return place(rungs[index], container, engine, workload, profile).fits

    if not holds(0):
        return SizeLimit(profile.name, format_name, precision, workload.context_length, 0, None)
    low, high = 0, len(rungs) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    shape = rungs[low]
    row = plan_row(shape, container_of(shape, format_name, precision), engine, workload, profile)
    return SizeLimit(
        profile.name,
        format_name,
        precision,
        workload.context_length,
        shape.parameters,
        row,
        is_top=low == len(rungs) - 1,
    )


@functools.cache
def ladder() -> tuple[ModelShape, ...]:
    """Llama-like shapes by rising parameter count, each a few percent above the one before."""
    rungs: list[ModelShape] = []
    for hidden, layers in _rungs():
        shape = llama_like(hidden, layers)
        if not rungs or shape.parameters > rungs[-1].parameters:
            rungs.append(shape)
    return tuple(rungs)


def _rungs() -> Iterator[tuple[int, int]]:
    for hidden in WIDTHS:
        fewest, most = round(hidden * FEWEST_LAYERS), round(hidden * MOST_LAYERS)
        for layers in range(max(2, fewest), most + 1):
            yield hidden, layers


@functools.cache
def llama_like(hidden: int, layers: int) -> ModelShape:
    """A llama of this width and depth."""
    head_dim = 64 if hidden <= WIDEST_NARROW_HEAD else 128
    document = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": hidden * 7 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head_dim,
        "num_key_value_heads": min(KV_HEADS, hidden // head_dim),
        "head_dim": head_dim,
        "vocab_size": 49_152 if hidden <= WIDEST_SMALL_VOCABULARY else 128_256,
        "max_position_embeddings": TRAINED_CONTEXT,
        "tie_word_embeddings": hidden <= WIDEST_TIED,
    }
    shape = shape_from_config(document, name="llama-like")
    return shape_from_config(document, name=f"llama-like {format_count(shape.parameters)}")


def contexts_for(profile: DeviceProfile, asked: int | None) -> Sequence[int]:
    """The context that was asked for, or the usual ones with the device's own among them."""
    return (asked,) if asked is not None else tuple(sorted({*CONTEXTS, profile.context_length}))
