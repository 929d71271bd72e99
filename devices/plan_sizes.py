"""The plan the other way round: how large a model a device holds, by precision and context, and how fast it would be.

Sizes are those of a ladder of llama-like shapes (grouped-query attention with 8 key/value heads, a gated feed-forward part 3.5
times the hidden width): widths and depths of the Llama 3 family (arXiv:2407.21783) with the layers in between. Models of another
build differ: fewer key/value heads or a larger vocabulary move the limit by a few percent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeport.devices.config_shape import shape_from_config
from edgeport.devices.memory import Workload
from edgeport.devices.plan_containers import Container, container_of
from edgeport.devices.plan_place import place
from edgeport.devices.plan_row import PlanRow, plan_row
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.units import format_count

CONTEXTS = (2048, 8192, 32768)
WIDTHS = (
    512, 640, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384,
)  # fmt: skip
FEWEST_LAYERS, MOST_LAYERS = 1 / 160, 1 / 60
"""Layers per unit of hidden width; the Llama 3 family has 1/130 (405B) to 1/102 (70B), the rest joins one width to the next."""
TRAINED_CONTEXT = 131_072
KV_HEADS = 8
WIDEST_TIED, WIDEST_SMALL_VOCABULARY, WIDEST_NARROW_HEAD = 3072, 1536, 2048


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
        shape, container = _stored(*rungs[index], format_name, precision)
        return place(shape, container, engine, workload, profile).fits

    if not holds(0):
        return SizeLimit(profile.name, format_name, precision, workload.context_length, 0, None)
    low, high = 0, len(rungs) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    shape, container = _stored(*rungs[low], format_name, precision)
    row = plan_row(shape, container, engine, workload, profile)
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
def _stored(hidden: int, layers: int, format_name: str, precision: str) -> tuple[ModelShape, Container]:
    """A rung with its container: the same ones are asked for every context and device."""
    shape = llama_like(hidden, layers)
    return shape, container_of(shape, format_name, precision)


@functools.cache
def ladder() -> tuple[tuple[int, int], ...]:
    """(hidden width, layers) by rising parameter count, each a few percent above the one before."""
    rungs: list[tuple[int, int]] = []
    largest = 0
    for hidden in WIDTHS:
        outside = llama_like(hidden, 2).parameters - 2 * _layer_parameters(hidden)
        fewest, most = round(hidden * FEWEST_LAYERS), round(hidden * MOST_LAYERS)
        for layers in range(fewest, most + 1):
            parameters = outside + layers * _layer_parameters(hidden)
            if parameters > largest:
                rungs.append((hidden, layers))
                largest = parameters
    return tuple(rungs)


def _layer_parameters(hidden: int) -> int:
    return llama_like(hidden, 3).parameters - llama_like(hidden, 2).parameters


@functools.cache
def llama_like(hidden: int, layers: int) -> ModelShape:
    """A llama of this width and depth."""
    head_dim = 64 if hidden <= WIDEST_NARROW_HEAD else 128
    heads = -(-hidden // (head_dim * KV_HEADS)) * KV_HEADS
    document = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": hidden * 7 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": KV_HEADS,
        "head_dim": head_dim,
        "vocab_size": 49_152 if hidden <= WIDEST_SMALL_VOCABULARY else 128_256,
        "max_position_embeddings": TRAINED_CONTEXT,
        "tie_word_embeddings": hidden <= WIDEST_TIED,
    }
    shape = shape_from_config(document, name="llama-like")
    return replace(shape, name=f"llama-like {format_count(shape.parameters)}")


def contexts_for(profile: DeviceProfile, asked: int | None) -> Sequence[int]:
    """The context that was asked for, or the usual ones with the device's own among them."""
    return (asked,) if asked is not None else tuple(sorted({*CONTEXTS, profile.context_length}))
