"""The ways to spread a model over the GPUs of a device, with memory per GPU, and what each means for speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeport.devices.memory import Workload, estimate_memory
from edgeport.devices.plan_containers import Container
from edgeport.devices.plan_place import LAYER_SPLIT_ENGINES, load_of, packed_block
from edgeport.devices.plan_row import PlanRow
from edgeport.devices.profile import DeviceProfile, GpuPart
from edgeport.devices.shape import ModelShape
from edgeport.devices.split import Split, all_reduce_bytes, obstacles, split
from edgeport.units import format_bytes

PIPELINE_NOTE = (
    "whole layers on each GPU give capacity, not speed: a token goes through one GPU after the other (8B Q4_K_M on 1, 2 and 4 "
    "RTX 4090: 127.7, 122.6 and 117.6 tokens/s, github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference)"
)


@dataclass(frozen=True, slots=True)
class SplitOption:
    """One layout; required_bytes of the fullest GPU. obstacles: why it cannot be, and then no split."""

    tensor_parallel: int
    pipeline_parallel: int
    required_bytes: int
    available_bytes: int
    fits: bool
    obstacles: tuple[str, ...]
    split: Split | None


def split_options(
    shape: ModelShape, container: Container, engine: str, workload: Workload, profile: DeviceProfile
) -> tuple[SplitOption, ...]:
    """One GPU, every tensor-parallel degree up to all of them, and a pipeline over all; nothing for a device with one GPU."""
    gpu = profile.gpu
    if gpu is None or gpu.count == 1 or not profile.runs_on_gpu(engine):
        return ()
    memory = estimate_memory(shape, container.weights, engine, workload)
    available = profile.available_bytes(True) // gpu.count
    options = []
    for tensor, stages in _layouts(engine, gpu.count):
        told = obstacles(shape, tensor, block=packed_block(container))
        if stages > shape.layers:
            told = (*told, f"{shape.layers} layers are not enough for {stages} GPUs")
        if told:
            options.append(SplitOption(tensor, stages, 0, available, False, told, None))
            continue
        load = load_of(shape, container, memory, workload)
        found = split(shape, load, tensor_parallel=tensor, pipeline_parallel=stages)
        fits = found.largest_bytes <= available
        options.append(SplitOption(tensor, stages, found.largest_bytes, available, fits, (), found))
    return tuple(options)


def _layouts(engine: str, count: int) -> Iterator[tuple[int, int]]:
    yield 1, 1
    if engine not in LAYER_SPLIT_ENGINES:
        yield from ((degree, 1) for degree in range(2, count + 1) if count % degree == 0)
    yield 1, count


def split_notes(shape: ModelShape, row: PlanRow, gpu: GpuPart | None) -> tuple[str, ...]:
    """What the layout of a row means for speed; nothing for a device with one GPU."""
    if gpu is None or gpu.count == 1 or not row.gpus:
        return ()
    found = row.split
    if found is None:
        copies = f"one GPU holds it: {gpu.count} copies side by side answer {gpu.count} times the requests"
        return (f"{copies}; more tensor parallelism only shortens one answer",) if row.fits else ()
    notes = []
    if found.tensor_parallel > 1:
        moved = format_bytes(all_reduce_bytes(shape, found.tensor_parallel, batch=row.batch))
        way = gpu.interconnect or "the bus between them"
        notes.append(
            f"tensor parallel: each of {found.tensor_parallel} GPUs reads its part of the weights at the same time, and pays two "
            f"all-reduces per layer over {way} ({moved} per step)"
        )
    if found.pipeline_parallel > 1:
        notes.append(PIPELINE_NOTE)
    return tuple(notes)
