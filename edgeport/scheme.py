"""The vocabulary of quantization: what one tensor is stored as, without any tensor library.

The portable scheme is symmetric with one signed scale per block of input features. A scale has few significant bits (7 for
INT4 and INT2, 4 for INT8), so it is exact in float16, bfloat16 and float32, and so is every dequantized weight in float16,
whose significand has 11 bits: 3 + 7 for INT4 and 7 + 4 for INT8 (the lowest codes, -8 and -128, are powers of two, and so
are all of INT2's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["int2", "int4", "int8", "f32", "f16", "bf16"]
QUANTIZED_KINDS: tuple[Kind, ...] = ("int2", "int4", "int8")
FLOAT_KINDS: tuple[Kind, ...] = ("f32", "f16", "bf16")
BLOCK_SIZES = (32, 64, 128)
SCALE_SIGNIFICANT_BITS = {2: 7, 4: 7, 8: 4}
"""Significant bits of a scale, by the bits of its codes."""
_BITS: dict[Kind, int] = {"int2": 2, "int4": 4, "int8": 8, "f32": 32, "f16": 16, "bf16": 16}


@dataclass(frozen=True, slots=True)
class TensorScheme:
    """How one tensor is stored: `int2`/`int4`/`int8` with a block of input features per scale, or a float type (block 0)."""

    kind: Kind
    block: int = 0

    def __post_init__(self) -> None:
        if self.is_quantized and self.block not in BLOCK_SIZES:
            raise ValueError(f"block of {self.kind} must be one of {BLOCK_SIZES}, not {self.block}")
        if not self.is_quantized and self.block:
            raise ValueError(f"{self.kind} has no block, got {self.block}")

    @property
    def is_quantized(self) -> bool:
        return self.kind in QUANTIZED_KINDS

    @property
    def bits(self) -> int:
        return _BITS[self.kind]

    @property
    def bits_per_weight(self) -> float:
        """Payload and 16-bit scales: 4.5 for INT4 in blocks of 32."""
        return self.bits + (16 / self.block if self.block else 0.0)

    def __str__(self) -> str:
        return f"{self.kind}-g{self.block}" if self.block else self.kind
