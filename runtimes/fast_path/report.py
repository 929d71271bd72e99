"""What the fast-path check says: per container, groups of tensors with the kernel that runs them.

`fast` means that no better kernel of this engine is left unused on this processor; it is a statement about kernels, not a
measured rate (that is `edgeport bench`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport.runtimes.fast_path.kernel import Kernel

MATRIX, LOOKUP, ATTENTION, CONVERSION = "matrix", "lookup", "attention", "conversion"
"""Roles: multiplied with activations, read row by row, attention itself, activations changed from one type to another."""


@dataclass(frozen=True, slots=True)
class KernelGroup:
    """Tensors of one type that the same kernel runs.

    tensor_type: as the format names it (Q4_0, u4, `INT4, blocks of 32`). count: tensors, or operations where there is no
    tensor. size_bytes: in the file. cause and cure: empty when it is fast. evidence: the engine's own words.
    """

    role: str
    tensor_type: str
    count: int
    size_bytes: int
    kernel: str
    fast: bool
    cause: str = ""
    cure: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Unused:
    """Something of the processor that this installation of the engine leaves unused for every tensor."""

    what: str
    cure: str
    evidence: str


@dataclass(frozen=True, slots=True)
class EngineFindings:
    """What the child process found: the engine's name with version, and how it runs the file."""

    engine: str
    groups: tuple[KernelGroup, ...]
    unused: tuple[Unused, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerReport:
    """One container. fast: every group is, and nothing of the processor is unused. settings: what the engine was opened with."""

    format: str
    path: str
    engine: str
    settings: str
    fast: bool
    groups: tuple[KernelGroup, ...]
    unused: tuple[Unused, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A container that was not looked at, and why."""

    format: str
    reason: str


@dataclass(frozen=True, slots=True)
class FastPathReport:
    """processor: its model name. isa: its instruction sets, in the names of the device profiles."""

    processor: str
    isa: tuple[str, ...]
    fast: bool
    containers: tuple[ContainerReport, ...]
    skipped: tuple[Skipped, ...] = ()


def kernel_group(
    role: str, tensor_type: str, count: int, size_bytes: int, kernel: Kernel, evidence: str
) -> KernelGroup:
    return KernelGroup(
        role, tensor_type, count, size_bytes, kernel.name, kernel.fast, kernel.cause, kernel.cure, evidence
    )


def and_more(name: str, count: int) -> str:
    """`blk.0.ffn_up.weight (and 23 more)`."""
    return f"{name} (and {count - 1} more)" if count > 1 else name


def container_report(format_name: str, path: str, settings: str, findings: EngineFindings) -> ContainerReport:
    fast = not findings.unused and all(group.fast for group in findings.groups)
    return ContainerReport(
        format_name, path, findings.engine, settings, fast, findings.groups, findings.unused
    )


def largest_first(groups: Sequence[KernelGroup]) -> tuple[KernelGroup, ...]:
    """Slow groups before fast ones, then by the bytes they hold."""
    return tuple(sorted(groups, key=lambda group: (group.fast, -group.size_bytes, group.tensor_type)))
