"""How much memory an export takes, stage by stage, so that it can refuse before it starts.

Sources and checkpoints are memory-mapped (their pages can be dropped), workers hold one packed tensor and a few pieces of
rows in float32, writers stream. What is large is verification: it compares each engine with the reference, which holds
every weight in float32 (peak seen: 690 MiB for the shape of SmolLM2-135M, 2.07 GiB for Qwen2.5-0.5B).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeport.devices.memory import MIB
from edgeport.manifest import ModelFacts

PROCESS_BYTES = 220 * MIB
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


def conversion_memory(
    model: ModelFacts, *, largest_bits_per_weight: float, threads: int
) -> ConversionEstimate:
    """Peak memory of quantizing, packing and verifying; `largest_bits_per_weight` is that of the largest tensor."""
    largest = round(
        model.hidden_size * max(model.vocab_size, model.intermediate_size) * largest_bits_per_weight / 8
    )
    workers = threads * PIECES_PER_WORKER * PIECE_BYTES
    return ConversionEstimate(
        (
            StageMemory(
                "quantize",
                PROCESS_BYTES + workers + (threads + 1) * largest,
                f"{threads} workers with {PIECES_PER_WORKER} pieces of 8 MiB, {threads + 1} packed tensors in flight",
            ),
            StageMemory(
                "pack", PROCESS_BYTES + 2 * largest, "the largest tensor, and a copy in the container's order"
            ),
            StageMemory(
                "verify", PROCESS_BYTES + 4 * model.parameters, "every weight in float32 for the reference"
            ),
        )
    )
