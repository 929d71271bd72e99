"""Widths that the target formats can pack without padding or falling back to more bits.

Blocks of 32 run along every row, in all four containers. A K-quant's super-block has 256 values: llama.cpp packs rows of
another length at more bits. bitsandbytes' blocks are 64 values; vLLM's Marlin kernels want rows of 128.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeport.export.formats.table import FORMATS
from edgeport.export.native.table import NATIVE

SMALLEST_SNAP = 32
_WANTED = (
    (re.compile(r"gguf-(q\d_k|iq4_xs|tq)"), 256),
    (re.compile(r"safetensors$"), 128),
    (re.compile(r"bitsandbytes-"), 64),
)


def snap_for(formats: Sequence[str]) -> tuple[int, str]:
    """The multiple that suits all of `formats`, and which of them asked for it ("" where none did)."""
    snap, reason = SMALLEST_SNAP, ""
    for name in formats:
        for pattern, wanted in _WANTED:
            if pattern.match(name) and wanted > snap:
                snap, reason = wanted, name
    return snap, reason


def unknown_formats(formats: Sequence[str]) -> list[str]:
    return [name for name in formats if name not in FORMATS and name not in NATIVE]


def snap_width(target: float, size: int, multiple: int) -> int:
    """The `multiple` nearest to `target`, at least one and below `size`; `size` itself when that is nearer."""
    if target >= size:
        return size
    rounded = max(int(target / multiple + 0.5), 1) * multiple
    return rounded if rounded < size else size


def rounding_note(name: str, target: float, width: int, multiple: int) -> tuple[str, ...]:
    if width == target:
        return ()
    return (f"{name}: {width} instead of {target:g}, the nearest multiple of {multiple}",)
