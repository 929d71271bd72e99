"""Where a container goes on a device, and what it needs there: RAM, one GPU, or the smallest group of GPUs that holds it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgeport.devices.kv_cache import kv_cache_bytes
from edgeport.devices.memory import MemoryEstimate, Workload, estimate_memory
from edgeport.devices.plan_containers import Container
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.shape import CacheShape, ModelShape, TensorShape
from edgeport.devices.split import Load, Split, degrees, split
from edgeport.units import format_bytes

SMALLEST_CONTEXT = 256
"""A shorter context is not worth loading a model for; also llama.cpp's granularity."""
LAYER_SPLIT_ENGINES = ("llama.cpp",)
"""Engines that give each GPU whole layers; the others divide every matrix first."""
PACKED_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Placement:
    """required_bytes and available_bytes are of the fullest GPU, or of RAM where gpus is 0. split: over more than one GPU."""

    memory: MemoryEstimate
    gpus: int
    required_bytes: int
    available_bytes: int
    split: Split | None = None

    @property
    def fits(self) -> bool:
        return self.required_bytes <= self.available_bytes

    @property
    def layout(self) -> tuple[int, int]:
        """(tensor parallel, pipeline stages)."""
        return (1, 1) if self.split is None else (self.split.tensor_parallel, self.split.pipeline_parallel)

    @property
    def reason(self) -> str:
        """The verdict's numbers, term by term."""
        memory = self.memory
        where = ("", " on the GPU", " on each GPU")[min(self.gpus, 2)]
        fullest = f" on the fullest of {self.gpus} GPUs" if self.gpus > 1 else ""
        all_of_it = "in all: " if self.gpus > 1 else ""
        return (
            f"{memory.format} in {memory.engine} needs {format_bytes(self.required_bytes)}{fullest} "
            f"({all_of_it}weights {format_bytes(memory.weights_bytes)}, KV cache {format_bytes(memory.kv_cache_bytes)} for "
            f"{memory.context_length} tokens, compute {format_bytes(memory.compute_bytes)}, "
            f"engine {format_bytes(memory.overhead_bytes)}), {format_bytes(self.available_bytes)} are usable{where}"
        )


def place(
    shape: ModelShape, container: Container, engine: str, workload: Workload, profile: DeviceProfile
) -> Placement:
    """The placement on the fewest GPUs that hold it; where none does, the one whose fullest GPU holds least."""
    memory = estimate_memory(shape, container.weights, engine, workload)
    gpu = profile.gpu
    if gpu is None or not profile.runs_on_gpu(engine):
        return Placement(memory, 0, memory.required_bytes, profile.available_bytes(False))
    available = profile.available_bytes(True) // gpu.count
    first = Placement(memory, 1, memory.required_bytes, available)
    if first.fits or gpu.count == 1:
        return first
    candidates = [first]
    for layout in _layouts(shape, engine, container, gpu.count):
        found = split(
            shape,
            load_of(shape, container, memory, workload),
            tensor_parallel=layout[0],
            pipeline_parallel=layout[1],
        )
        candidates.append(Placement(memory, found.gpus, found.largest_bytes, available, found))
        if candidates[-1].fits:
            return candidates[-1]
    # Layouts within a percent of each other are told by their order: fewest GPUs, most tensor parallelism.
    return min(candidates, key=lambda item: math.ceil(100 * item.required_bytes / available))


def largest_context(
    shape: ModelShape, container: Container, engine: str, workload: Workload, profile: DeviceProfile
) -> int:
    """The longest context that fits, at most the model's; 0 when not even 256 tokens do. Bisection."""

    def holds(context: int) -> bool:
        return place(shape, container, engine, replace(workload, context_length=context), profile).fits

    low, high = min(SMALLEST_CONTEXT, shape.context_length), shape.context_length
    if not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _layouts(shape: ModelShape, engine: str, container: Container, count: int) -> Iterator[tuple[int, int]]:
    """(tensor parallel, pipeline stages) from few GPUs to many; of those with as many GPUs the most divided matrices first."""
    if engine in LAYER_SPLIT_ENGINES:
        yield from ((1, stages) for stages in range(2, min(count, shape.layers) + 1))
        return
    block = packed_block(container)
    for gpus in range(2, count + 1):
        if count % gpus == 0:
            for tensor in reversed(degrees(shape, gpus, block=block)):
                if gpus // tensor <= shape.layers:
                    yield tensor, gpus // tensor


def packed_block(container: Container) -> int:
    """Input features that a part must hold whole: those of one scale."""
    return PACKED_BLOCK if container.bits < 16 else 1


def load_of(shape: ModelShape, container: Container, memory: MemoryEstimate, workload: Workload) -> Load:
    """The estimate of the whole, divided among tensors as they are stored; each layer's cache as the engine allocates it."""
    stored = sum(container.tensor_bytes(tensor, shape) for tensor in shape.tensors) or 1

    def tensor_bytes(tensor: TensorShape) -> float:
        return memory.weights_bytes * container.tensor_bytes(tensor, shape) / stored

    def cache_bytes(cache: CacheShape) -> float:
        return kv_cache_bytes(
            replace(shape, caches=(cache,)), memory.engine, workload.context_length,
            batch=workload.batch, kv_bits=workload.kv_bits,
        )  # fmt: skip

    return Load(tensor_bytes, cache_bytes, memory.compute_bytes, memory.overhead_bytes)
