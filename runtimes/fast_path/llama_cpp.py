"""llama.cpp: which tensors it repacks is in its load log, what it was built for in its system info.

Spec: llama.h (`llama_print_system_info`); the log's lines are those of the llama.cpp in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgeport.devices.cpu import read_cpu
from edgeport.devices.gguf_header import GgufTensor, read_gguf_header
from edgeport.errors import RuntimeFailure
from edgeport.manifest import to_json
from edgeport.runtimes.container import Container
from edgeport.runtimes.container_files import container_files
from edgeport.runtimes.engine_settings import settings_from
from edgeport.runtimes.fast_path.engine_log import stderr_to
from edgeport.runtimes.fast_path.kernel import Kernel
from edgeport.runtimes.fast_path.llama_kernels import unpacked_kernel
from edgeport.runtimes.fast_path.report import (
    ATTENTION,
    LOOKUP,
    MATRIX,
    EngineFindings,
    KernelGroup,
    Unused,
    and_more,
    kernel_group,
    largest_first,
)

_REPACKED = re.compile(r"repack tensor (\S+) with (\S+)")
_AMX = re.compile(r"amx repack tensor (\S+) of type (\S+)")
_BUFFER = re.compile(r"(\S+) model buffer size =\s*(\S+ MiB)")
_ATTENTION = re.compile(r"is used by node '(\S+)' \((FLASH_ATTN_EXT|SOFT_MAX)\)")
_NEW_GRAPH = re.compile(r"reserving a graph")
_FEATURE = re.compile(r"(\w+) = 1\b")
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_LOOKUPS = (_EMBEDDING, "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
_INT8_FEATURES = (
    ("avx2", ("AVX2",)),
    ("avx512_vnni", ("AVX512_VNNI",)),
    ("avx_vnni", ("AVX_VNNI", "AVX512_VNNI")),
    ("amx_int8", ("AMX_INT8",)),
    ("dotprod", ("DOTPROD",)),
    ("i8mm", ("MATMUL_INT8",)),
)
"""Instruction set of the processor: what the build shows when it uses it, one of them is enough."""


@dataclass(frozen=True, slots=True)
class LoadLog:
    """repacked: tensor name -> interleaved type, e.g. q4_0_8x8. buffers: (name, size) of the weights' buffers.
    attention: (node, operation) of the last graph that was reserved, one for each layer."""

    repacked: Mapping[str, str]
    amx: Mapping[str, str]
    buffers: Sequence[tuple[str, str]]
    attention: frozenset[tuple[str, str]]


def inspect(path: str, settings: Mapping[str, Any], log: str) -> Any:
    """In the child: open the file as the adapter does, then read the log. Returns EngineFindings as JSON."""
    import llama_cpp.llama_cpp as native

    from edgeport.runtimes.gguf import open_session
    from edgeport.runtimes.llama_library import find_file
    from edgeport.runtimes.session import SessionOptions

    file, chosen = find_file(Path(path)), settings_from(settings)
    with stderr_to(Path(log)):
        session = open_session(file, SessionOptions(settings=chosen))
        session.close()
    loaded = read_load_log(Path(log).read_text(encoding="utf-8", errors="replace").splitlines())
    if not loaded.buffers:
        raise RuntimeFailure(
            "llama.cpp's load log names no buffer, so that nothing can be proven",
            hint="this check reads the log of the llama.cpp in llama-cpp-python 0.3.36",
        )
    features = built_features(native.llama_print_system_info().decode())
    parts = [part for part in container_files(Container("gguf", file)) if part.suffix == ".gguf"]
    tensors = [tensor for part in parts for tensor in read_gguf_header(part).tensors]
    groups = [*weight_groups(tensors, loaded, features, chosen.repack is not False), *_attention(loaded)]
    engine = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"
    return to_json(EngineFindings(engine, largest_first(groups), unused_features(read_cpu().isa, features)))


def read_load_log(lines: Iterable[str]) -> LoadLog:
    repacked: dict[str, str] = {}
    amx: dict[str, str] = {}
    buffers: list[tuple[str, str]] = []
    attention: set[tuple[str, str]] = set()
    for line in lines:
        if found := _AMX.search(line):
            amx[found.group(1)] = found.group(2)
        elif found := _REPACKED.search(line):
            repacked[found.group(1)] = found.group(2)
        elif found := _BUFFER.search(line):
            buffers.append((found.group(1), found.group(2)))
        elif found := _ATTENTION.search(line):
            attention.add((found.group(1), found.group(2)))
        elif _NEW_GRAPH.search(line):  # nodes are numbered anew
            attention.clear()
    return LoadLog(repacked, amx, buffers, frozenset(attention))


def built_features(system_info: str) -> frozenset[str]:
    return frozenset(_FEATURE.findall(system_info))


def weight_groups(
    tensors: Sequence[GgufTensor], loaded: LoadLog, features: frozenset[str], repack: bool
) -> list[KernelGroup]:
    """Matrices and lookup tables; vectors (norms, biases) are left out. repack: False where the settings turn it off."""
    tied = all(tensor.name != _HEAD for tensor in tensors)
    members: dict[tuple[str, str, Kernel], list[GgufTensor]] = {}
    for tensor in tensors:
        if sum(size > 1 for size in tensor.sizes) < 2:
            continue
        role = LOOKUP if tensor.name in _LOOKUPS and not (tied and tensor.name == _EMBEDDING) else MATRIX
        kernel = (
            Kernel("row lookup", True) if role == LOOKUP else matrix_kernel(tensor, loaded, features, repack)
        )
        members.setdefault((role, tensor.kind.name, kernel), []).append(tensor)
    return [
        kernel_group(
            role,
            kind,
            len(items),
            sum(item.size_bytes for item in items),
            kernel,
            _evidence(items, loaded, features),
        )
        for (role, kind, kernel), items in members.items()
    ]


def matrix_kernel(tensor: GgufTensor, loaded: LoadLog, features: frozenset[str], repack: bool) -> Kernel:
    if tensor.name in loaded.amx:
        return Kernel("AMX tiles", True)
    if tensor.name in loaded.repacked:
        return Kernel(f"repacked {loaded.repacked[tensor.name]}", True)
    kernel = unpacked_kernel(tensor.kind.name, tensor.sizes[1], features)
    # Only measurement or the application turns it off, so that the other kernel is the one that was wanted.
    return kernel if repack or not kernel.could_repack else Kernel(f"{kernel.name}, repacking is off", True)


def unused_features(isa: Iterable[str], features: frozenset[str]) -> tuple[Unused, ...]:
    """INT8 instructions the processor has and this build does not use."""
    has = frozenset(isa)
    return tuple(
        Unused(
            flag,
            "build it for this processor: pip install --no-binary llama-cpp-python --force-reinstall llama-cpp-python",
            f"system info: {' | '.join(sorted(features))}",
        )
        for flag, shown in _INT8_FEATURES
        if flag in has and not features.intersection(shown)
    )


def _evidence(items: Sequence[GgufTensor], loaded: LoadLog, features: frozenset[str]) -> str:
    first = items[0].name
    named = and_more(first, len(items))
    if first in loaded.amx:
        return f"log: amx repack tensor {named}, type {loaded.amx[first]}"
    if first in loaded.repacked:
        return f"log: repack tensor {named} with {loaded.repacked[first]}"
    buffers = ", ".join(f"{name} {size}" for name, size in loaded.buffers) or "none"
    built = " ".join(sorted(features))
    return f"log: no repack line for {named}; buffers: {buffers}; built with {built}"


def _attention(loaded: LoadLog) -> list[KernelGroup]:
    """Fused or not: which is quicker depends on the shape (docs/tune.md), so neither is called slow."""
    names = {"FLASH_ATTN_EXT": "fused (FLASH_ATTN_EXT)", "SOFT_MAX": "two products and a softmax"}
    groups = []
    for operation, name in names.items():
        nodes = sorted(node for node, kind in loaded.attention if kind == operation)
        if nodes:
            evidence = f"log: {and_more(nodes[0], len(nodes))} is {operation}"
            kernel = Kernel(name, True)
            groups.append(kernel_group(ATTENTION, "cache", len(nodes), 0, kernel, evidence))
    return groups
