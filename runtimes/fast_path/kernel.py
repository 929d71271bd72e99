"""A kernel as the check tells of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """cause: why it is slow; cure: what would make it fast. Both empty when it is. could_repack: slow only because its weights
    were left in the file's order (llama.cpp)."""

    name: str
    fast: bool
    cause: str = ""
    cure: str = ""
    could_repack: bool = False
