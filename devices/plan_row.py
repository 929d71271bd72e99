"""One container on one device: memory, context, speed, a verdict, and what would mend it.

Nothing is estimated here: memory comes from `memory`, speed from `speed`, advice from `advice`. This joins them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeport.devices.advice import Advice
from edgeport.devices.launch import Launch, launch_line
from edgeport.devices.memory import MemoryEstimate, Workload
from edgeport.devices.plan_containers import Container
from edgeport.devices.plan_knobs import advice_texts, advise
from edgeport.devices.plan_place import Placement, largest_context, place
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import ModelShape
from edgeport.devices.speed import SpeedEstimate, estimate_speed
from edgeport.devices.split import Split

Verdict = Literal["fits", "fits with changes", "no"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One container on one device. required_bytes and available_bytes are of the fullest GPU, or of RAM where gpus is 0.

    largest_context_length: 0 when not even 256 tokens fit. speed: at an empty cache, were the memory there; speed_at_context:
    at a full one; None for encoders.
    advice_text: one line per change that is enough alone, or one line of those needed together.
    """

    device: str
    format: str
    precision: str
    engine: str
    gpus: int
    context_length: int
    batch: int
    kv_bits: int | None
    file_bytes: int
    memory: MemoryEstimate
    required_bytes: int
    available_bytes: int
    largest_context_length: int
    speed: SpeedEstimate | None
    speed_at_context: SpeedEstimate | None
    verdict: Verdict
    reason: str
    advice: Advice
    advice_text: tuple[str, ...]
    split: Split | None
    launch: str

    @property
    def fits(self) -> bool:
        return self.verdict == "fits"


def plan_row(
    shape: ModelShape,
    container: Container,
    engine: str,
    workload: Workload,
    profile: DeviceProfile,
    *,
    advised: bool = True,
) -> PlanRow:
    """One container in one engine on one device. advised: False leaves the advice out, and a verdict is then yes or no."""
    found = place(shape, container, engine, workload, profile)
    advice = Advice()
    if advised and not found.fits:
        advice = advise(shape, container, engine, workload, profile)
    speed, full = speed_of(shape, container, found, profile, workload)
    verdict: Verdict = "fits" if found.fits else "fits with changes" if advice.helps else "no"
    launch = Launch(
        engine, workload.context_length, workload.batch, workload.kv_bits, found.gpus > 0,
        profile.gpu.usable_share if profile.gpu is not None else 1.0, found.split,
    )  # fmt: skip
    return PlanRow(
        device=profile.name,
        format=container.format,
        precision=container.precision,
        engine=engine,
        gpus=found.gpus,
        context_length=workload.context_length,
        batch=workload.batch,
        kv_bits=workload.kv_bits,
        file_bytes=container.file_bytes,
        memory=found.memory,
        required_bytes=found.required_bytes,
        available_bytes=found.available_bytes,
        largest_context_length=largest_context(shape, container, engine, workload, profile),
        speed=speed,
        speed_at_context=full,
        verdict=verdict,
        reason=found.reason,
        advice=advice,
        advice_text=tuple(advice_texts(advice, shape)),
        split=found.split,
        launch=launch_line(launch),
    )


def speed_of(
    shape: ModelShape, container: Container, found: Placement, profile: DeviceProfile, workload: Workload
) -> tuple[SpeedEstimate | None, SpeedEstimate | None]:
    """Speed of the placement at an empty and at a full cache: only the GPUs it takes count. None for what decodes nothing."""
    if not decodes(shape):
        return None, None
    engine = found.memory.engine
    # The reference reads its float32 copy, every other engine as many bytes as the tensors have.
    read_bytes = found.memory.weights_bytes if engine == "reference" else container.weights.size_bytes
    empty, full = (
        estimate_speed(
            shape, read_bytes, container.bits, profile, engine,
            depth=depth, batch=workload.batch, on_gpu=found.gpus > 0, kv_bits=workload.kv_bits, split=found.layout,
        )
        for depth in (0, workload.context_length - 1)
    )  # fmt: skip
    return empty, full


def decodes(shape: ModelShape) -> bool:
    """Whether the model generates text: an encoder keeps nothing of a sequence."""
    return any(cache.values_per_token or cache.state_bytes for cache in shape.caches)
