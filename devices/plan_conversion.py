"""What `edgeport export` takes to make the planned containers, on the machine where it runs: memory by stage, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.devices.conversion import StageMemory, conversion_memory
from edgeport.devices.plan_containers import Container, container_of
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.shape import ModelShape
from edgeport.manifest import ModelFacts
from edgeport.units import format_bytes

LARGEST_TENSOR_BITS = 8.5
"""Of the tensor with most bytes: the embedding, INT8 with its scales."""
TIME_NOTE = (
    "time depends on the machine that converts: `edgeport export MODEL --dry-run` measures it and tells"
)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """peak_bytes: of the largest stage without calibration. disk_bytes: checkpoint and containers; the source is not counted."""

    stages: tuple[StageMemory, ...]
    peak_bytes: int
    disk_bytes: int
    disk_basis: str
    time_note: str


def plan_conversion(shape: ModelShape, rows: Sequence[PlanRow], threads: int) -> ConversionPlan:
    """For the containers of `rows`, each once; packed safetensors is always made: the golden answers come from it."""
    estimate = conversion_memory(
        facts_of(shape), largest_bits_per_weight=LARGEST_TENSOR_BITS, threads=threads
    )
    wanted = {(row.format, row.precision): row.file_bytes for row in rows}
    precisions = dict.fromkeys(precision for _, precision in wanted)
    checkpoints: dict[str, Container] = {}
    for precision in precisions or {"int4": None}:
        own = precision if precision in ("int4", "int8", "f16") else "int4"
        checkpoints[own] = container_of(shape, "safetensors", own)
        wanted.setdefault(("safetensors", own), checkpoints[own].file_bytes)
    kept = sum(item.weights.size_bytes for item in checkpoints.values())
    told = ", ".join(f"{name} {precision} {format_bytes(size)}" for (name, precision), size in wanted.items())
    return ConversionPlan(
        stages=estimate.stages,
        peak_bytes=estimate.peak_bytes,
        disk_bytes=kept + sum(wanted.values()),
        disk_basis=f"checkpoint {format_bytes(kept)}, {told}",
        time_note=TIME_NOTE,
    )


def facts_of(shape: ModelShape) -> ModelFacts:
    """What a manifest would say of the model; heads of keys and values are those of its widest layer."""
    values = sum(cache.values_per_token for cache in shape.caches)
    return ModelFacts(
        family=shape.family,
        parameters=shape.parameters,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        heads=shape.heads,
        kv_heads=max((cache.kv_heads for cache in shape.caches), default=0),
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        context_length=shape.context_length,
        tied_embeddings=shape.tied_embeddings,
        bits_per_weight=16.0,
        kv_bytes_per_token=2 * values,
    )
