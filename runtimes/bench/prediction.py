"""What the estimators of edgeport.devices said of a container before it ran, to stand beside what was measured.

Nothing of the measurement goes into it but the settings and, where no saved profile of this machine exists, its memory
bandwidth. Formulas: docs/speed.md and docs/memory.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.devices.bandwidth import MemoryBandwidth
from edgeport.devices.catalog import SHIPPED, load_profile, names, profile_path
from edgeport.devices.memory import FALLBACK_ENGINES, estimate_memory
from edgeport.devices.memory import Workload as MemoryWorkload
from edgeport.devices.plan_containers import open_model
from edgeport.devices.probe import HostFacts, host_profile, read_host
from edgeport.devices.profile import DeviceProfile
from edgeport.devices.speed import estimate_speed
from edgeport.devices.weights import FORMATS
from edgeport.errors import EdgeportError
from edgeport.manifest import base_format, read_manifest
from edgeport.runtimes.bench.measure import Workload
from edgeport.runtimes.bench.roofline import mean_cache_entries

MEMORY_SPREAD = 0.1
"""Measured memory lay within 5 % of the prediction on short contexts, 7 % on long ones (docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected value with the ends of its interval. Prefill is None where nothing says how fast the device computes.

    memory_bytes: the largest resident size. profile: whose rates: a saved profile's name, or `host`. basis: in a line.
    """

    memory_bytes: int
    memory_low_bytes: int
    memory_high_bytes: int
    prefill_tokens_per_s: float | None
    prefill_low_tokens_per_s: float | None
    prefill_high_tokens_per_s: float | None
    decode_tokens_per_s: float
    decode_low_tokens_per_s: float
    decode_high_tokens_per_s: float
    profile: str
    basis: str


def machine_profile(threads: int, bandwidth_bytes_per_s: float | None) -> DeviceProfile | None:
    """A profile of yours that describes this machine, else one made of the measured bandwidth; None without either."""
    facts = read_host()
    saved = saved_profile(facts, threads)
    if saved is not None:
        return saved
    if bandwidth_bytes_per_s is None:
        return None
    profile = host_profile(facts, MemoryBandwidth(round(bandwidth_bytes_per_s), threads, (), 0))
    rate = profile.int8_ops_per_s
    return replace(profile, cores=threads, int8_ops_per_s=rate and round(rate * threads / profile.cores))


def saved_profile(facts: HostFacts, threads: int) -> DeviceProfile | None:
    """The one `devices detect --save` wrote on a machine with this processor and as many threads; measured kernels win."""
    described = f"this machine: {facts.cpu.model},"
    found = []
    for name in names():
        path = profile_path(name)
        if path is None or path.parent == SHIPPED:
            continue
        try:
            profile = load_profile(name)
        except EdgeportError:  # a broken file is told by whoever asks for it by name
            continue
        if profile.description.startswith(described) and profile.cores == threads:
            found.append(profile)
    return max(found, key=lambda profile: len(profile.kernels), default=None)


def predict(
    directory: Path, format_name: str, workload: Workload, context_length: int, profile: DeviceProfile
) -> Prediction | None:
    """Memory and speed of one container of an artifact; None for a format nobody has a model of."""
    base = base_format(format_name)
    try:
        shape, containers = open_model(str(directory))
    except EdgeportError:  # a shape nobody can predict is measured all the same
        return None
    entries = [
        item.format for item in read_manifest(directory).containers if base_format(item.format) in FORMATS
    ]
    if format_name not in entries:
        return None
    container = containers[entries.index(format_name)]
    engine = profile.engine_for(base) or FALLBACK_ENGINES[base]
    memory = estimate_memory(shape, container.weights, engine, MemoryWorkload(context_length)).peak_bytes
    decode, prompt = (
        estimate_speed(
            shape,
            container.weights.size_bytes,
            container.bits,
            profile,
            engine,
            depth=depth,
            prompt_tokens=max(1, workload.n_prompt),
        )
        for depth in (round(mean_cache_entries(workload.n_gen, workload.n_depth)), workload.n_depth)
    )
    return Prediction(
        memory_bytes=memory,
        memory_low_bytes=round(memory * (1 - MEMORY_SPREAD)),
        memory_high_bytes=round(memory * (1 + MEMORY_SPREAD)),
        prefill_tokens_per_s=prompt.prefill_tokens_per_s,
        prefill_low_tokens_per_s=prompt.prefill_low_tokens_per_s,
        prefill_high_tokens_per_s=prompt.prefill_high_tokens_per_s,
        decode_tokens_per_s=decode.decode_tokens_per_s,
        decode_low_tokens_per_s=decode.decode_low_tokens_per_s,
        decode_high_tokens_per_s=decode.decode_high_tokens_per_s,
        profile=profile.name,
        basis=decode.basis,
    )
