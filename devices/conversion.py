"""How much memory an export takes, stage by stage, so that it can refuse before it starts.

Sources and checkpoints are memory-mapped (their pages can be dropped), workers hold one packed tensor and a few pieces of
rows in float32, writers stream. The golden answers are computed layer by layer. Verification opens each container in its
engine, in a process of its own; the comparison in float32, which takes several times the model, is left out where memory lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.devices.memory import MIB
from edgeport.manifest import ModelFacts

PROCESS_BYTES = 110 * MIB
"""Python with numpy, onnx, openvino and safetensors (resident size seen on Linux x86-64)."""
PIECE_BYTES = 8 * MIB
PIECES_PER_WORKER = 6
"""Source rows, candidates, errors, codes, and the best of each while the scale is searched."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    stage: str
    bytes: int
    basis: str


@dataclass(frozen=True, slots=True)
class ConversionEstimate:
    stages: tuple[StageMemory, ...]

    @property
    def peak_bytes(self) -> int:
        return max(stage.bytes for stage in self.stages)


def _layer_bytes(model: ModelFacts) -> int:
    """One decoder layer in float32: attention and SwiGLU matrices."""
    attention = 2 * model.hidden_size * (model.heads + model.kv_heads) * model.head_dim
    return 4 * (attention + 3 * model.hidden_size * model.intermediate_size)


def conversion_memory(
    model: ModelFacts, *, largest_bits_per_weight: float, threads: int
) -> ConversionEstimate:
    """Peak memory of quantizing, packing and computing the golden answers; `largest_bits_per_weight` is that of the largest tensor."""
    largest = round(
        model.hidden_size * max(model.vocab_size, model.intermediate_size) * largest_bits_per_weight / 8
    )
    workers = threads * PIECES_PER_WORKER * PIECE_BYTES
    return ConversionEstimate(
        (
            StageMemory(
                "quantize",
                PROCESS_BYTES + workers + 2 * largest,
                f"{threads} workers with {PIECES_PER_WORKER} pieces of 8 MiB, the largest packed tensor and its neighbours",
            ),
            StageMemory(
                "pack", PROCESS_BYTES + 2 * largest, "the largest tensor, and a copy in the container's order"
            ),
            StageMemory(
                "golden",
                PROCESS_BYTES + 2 * _layer_bytes(model),
                "one decoder layer in float32, and its codes",
            ),
        )
    )
