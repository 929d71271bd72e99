"""Which float type matrix products are computed in during training: bfloat16 where the processor multiplies it itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from edgeport.devices.probe import read_host

BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def choose_precision(wanted: str, isa: Iterable[str] | None = None) -> str:
    """`f32` or `bf16`; `auto` takes bf16 where `isa` (this processor's flags) has instructions for it: emulated, it is slower."""
    if wanted != "auto":
        return wanted
    flags = read_host().cpu.isa if isa is None else isa
    return "bf16" if BF16_FLAGS & set(flags) else "f32"


def autocast(precision: str) -> AbstractContextManager[Any]:
    """torch's mixed precision on the processor: products in bf16, sums, norms and losses in float32."""
    import torch

    context: AbstractContextManager[Any] = torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=precision == "bf16"
    )
    return context
