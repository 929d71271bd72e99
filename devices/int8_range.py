"""How many bits an INT8 weight may use on a processor: without VNNI instructions products of 8-bit numbers can saturate.

x86 multiplies unsigned activations with signed weights. VPMADDUBSW, which AVX2 and AVX-512 have, adds two such products in 16
bits with saturation: 2 * 255 * 127 = 64770 is above 32767, 2 * 255 * 64 = 32640 is not. VPDPBUSD (VNNI) and AMX add four of them
in 32 bits. So weights keep to 7 bits (onnxruntime's `reduce_range`) where the processor has none of these. Arm's SDOT and SMMLA add
in 32 bits. Source: Intel's instruction reference; onnxruntime's page on quantization ("When to use reduce-range").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VNNI_FLAGS = ("avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True, slots=True)
class Int8Range:
    """bits: 7 or 8; codes are -limit..limit. reason: for the plan and the manifest."""

    bits: int
    reason: str

    @property
    def limit(self) -> int:
        return int((1 << (self.bits - 1)) - 1)


def int8_range(architecture: str | None, isa: Sequence[str]) -> Int8Range:
    """For a device of this architecture (x86_64, aarch64, None: not said) with these instruction sets (profile.ISA_FLAGS)."""
    if architecture == "aarch64":
        return Int8Range(8, "8-bit weights: Arm adds products of 8 bits without saturation")
    found = next((flag for flag in VNNI_FLAGS if flag in isa), None)
    if found is not None:
        return Int8Range(8, f"8-bit weights: the processor has {found}, which does not saturate")
    if architecture == "x86_64" and isa:
        return Int8Range(
            7, "7-bit weights (reduce_range): without VNNI, products of 8 bits can saturate in 16"
        )
    return Int8Range(
        7,
        "7-bit weights (reduce_range): the profile names no instruction that adds products without saturation",
    )
