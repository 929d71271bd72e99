"""What `edgeport tune` tries: for each engine the settings that matter, one change at a time, the most promising first.

A change says what it may do to the text. `same`: nothing beyond rounding, it is taken when it is faster. `coarser`: the cache or
the activations are kept with fewer bits than the adapter does by itself; it is tried only when the user allows that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeport.manifest import base_format

Objective = Literal["decode", "prefill", "both"]
OBJECTIVES: tuple[Objective, ...] = ("decode", "prefill", "both")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One change of settings. helps: the objectives it can serve; an empty tuple is all."""

    changes: Mapping[str, Any]
    helps: tuple[Objective, ...] = ()
    is_coarser: bool = False


_PROMPTS: tuple[Objective, ...] = ("prefill", "both")
_CHUNKS = (128, 512, 64, 1024)

_TABLE: Mapping[str, tuple[Candidate, ...]] = {
    "gguf": (
        Candidate({"flash_attention": True}),
        Candidate({"flash_attention": False}),
        Candidate({"repack": False}),
        Candidate({"key_cache": "q8_0", "value_cache": "q8_0"}, is_coarser=True),
    ),
    "onnx": (Candidate({"spinning": False}),),
    "openvino": (
        Candidate({"inference_precision": "f32"}),
        Candidate({"key_cache": "bf16", "value_cache": "bf16"}, is_coarser=True),
        Candidate({"key_cache": "u8", "value_cache": "u8"}, is_coarser=True),
        Candidate({"dynamic_quantization_group": 0}),
        Candidate({"dynamic_quantization_group": 64}, is_coarser=True),
        Candidate({"pin_threads": False}),
    ),
}


def candidates(
    format_name: str, objective: Objective, *, cores: int, logical: int, allow_coarser: bool
) -> Iterator[Candidate]:
    """In the order in which they are tried. cores: what threads default to; logical: processors this process may use."""
    engine = base_format(format_name)
    for changes in _thread_changes(engine, cores, logical):
        yield Candidate(changes)
    for candidate in _TABLE.get(engine, ()):
        if (allow_coarser or not candidate.is_coarser) and (
            not candidate.helps or objective in candidate.helps
        ):
            yield candidate
    if objective in _PROMPTS and engine in _TABLE:
        yield from (Candidate({"prompt_chunk_tokens": count}, _PROMPTS) for count in _CHUNKS)


def _thread_changes(engine: str, cores: int, logical: int) -> Iterator[dict[str, int]]:
    """Fewer threads leave a core to the rest of the system or are enough for the memory; more use hyper-threads."""
    if engine not in _TABLE:
        return
    counts = dict.fromkeys((cores - 1, cores // 2, logical))
    for count in counts:
        if 1 <= count <= logical and count != cores:
            yield {"threads": count}
    if engine == "gguf" and logical > cores:
        yield {"prompt_threads": logical}
