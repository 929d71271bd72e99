"""The roofline of a container: bytes from its own header, bandwidth of the machine it ran on."""

from __future__ import annotations

from pathlib import Path

from edgeport.errors import ArtifactError
from edgeport.manifest import base_format
from edgeport.runtimes.bench.machine import Machine
from edgeport.runtimes.bench.roofline import Roofline, roofline
from edgeport.runtimes.bench.weights import READERS, bytes_read_per_token, read_tensors


def container_roofline(
    format_name: str, entry_point: Path, kv_bytes: float, tokens_per_s: float, machine: Machine
) -> Roofline:
    """kv_bytes: of the cache, read for one token. Raises ArtifactError for a header that cannot be read."""
    tensors = read_tensors(base_format(format_name), entry_point)
    return roofline(
        bytes_read_per_token(tensors),
        kv_bytes,
        tokens_per_s,
        bandwidth_bytes_per_s=machine.bandwidth_bytes_per_s,
        cache_bytes=machine.environment.last_level_cache_bytes,
    )


def roofline_or_none(
    format_name: str, entry_point: Path, kv_bytes: float, tokens_per_s: float, machine: Machine
) -> Roofline | None:
    """None where nobody can list the container's tensors: a row beside others is not lost for that."""
    if base_format(format_name) not in READERS:
        return None
    try:
        return container_roofline(format_name, entry_point, kv_bytes, tokens_per_s, machine)
    except ArtifactError:
        return None
