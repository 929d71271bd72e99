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


CALIBRATION_PROCESS_BYTES = 550 * MIB
"""Python with torch and transformers."""
BATCH_TOKENS = 2048
"""Tokens through a layer at a time in the calibration pass."""
LEARNED_BYTES_PER_PARAMETER = 36
"""Teacher, student, latent values, their gradient, Adam's two moments, and the best state so far, in float32."""


@dataclass(frozen=True, slots=True)
class CalibrationLoad:
    """What the solver asks of the pass. hessian: second-moment matrices. streams: 2 where float activations run beside the
    quantized ones. distils: the whole model is learned on afterwards."""

    hessian: bool
    streams: int = 1
    distils: bool = False


@dataclass(frozen=True, slots=True)
class StageMemory:
    """bytes: what must be free. mapped_bytes: pages of files beside them that the kernel may drop; a measured peak has them."""

    stage: str
    bytes: int
    basis: str
    mapped_bytes: int = 0

    @property
    def resident_bytes(self) -> int:
        return self.bytes + self.mapped_bytes


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


def _calibration_stages(model: ModelFacts, load: CalibrationLoad) -> tuple[StageMemory, ...]:
    widest = max(model.hidden_size, model.intermediate_size, model.heads * model.head_dim)
    activations = 4 * BATCH_TOKENS * (4 * model.hidden_size + 3 * model.intermediate_size)
    pass_bytes = CALIBRATION_PROCESS_BYTES + load.streams * (2 * _layer_bytes(model) + activations)
    basis = "a decoder layer in float32 and a batch of activations"
    if load.hessian:
        # In float32 the matrix, its cross product and the factor; in float64 three of them while it is factored.
        pass_bytes += widest**2 * (4 * (1 + load.streams) + 3 * 8)
        basis += f", and a Hessian of {widest} features with its factor in float64"
    stages = [StageMemory("calibrate", pass_bytes, basis)]
    if load.distils:
        learning = CALIBRATION_PROCESS_BYTES + LEARNED_BYTES_PER_PARAMETER * model.parameters
        stages.append(
            StageMemory("learn", learning, f"{LEARNED_BYTES_PER_PARAMETER} bytes for each parameter")
        )
    return tuple(stages)


def conversion_memory(
    model: ModelFacts,
    *,
    largest_bits_per_weight: float,
    threads: int,
    calibration: CalibrationLoad | None = None,
) -> ConversionEstimate:
    """Peak memory of quantizing, packing and computing the golden answers; `largest_bits_per_weight` is that of the largest tensor."""
    largest = round(
        model.hidden_size * max(model.vocab_size, model.intermediate_size) * largest_bits_per_weight / 8
    )
    workers = threads * PIECES_PER_WORKER * PIECE_BYTES
    # The OpenVINO writer's constants lie in the mapped checkpoint until the model is saved.
    checkpoint = round(model.parameters * model.bits_per_weight / 8)
    return ConversionEstimate(
        (
            StageMemory(
                "quantize",
                PROCESS_BYTES + workers + 2 * largest,
                f"{threads} workers with {PIECES_PER_WORKER} pieces of 8 MiB, the largest packed tensor and its neighbours",
            ),
            StageMemory(
                "pack",
                PROCESS_BYTES + 2 * largest,
                "the largest tensor, and a copy in the container's order",
                max(0, checkpoint - 2 * largest),
            ),
            StageMemory(
                "golden",
                PROCESS_BYTES + 2 * _layer_bytes(model),
                "one decoder layer in float32, and its codes",
            ),
            *(_calibration_stages(model, calibration) if calibration is not None else ()),
        )
    )
