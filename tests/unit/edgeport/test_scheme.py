"""What one tensor may be stored as."""

from __future__ import annotations

from typing import Any

import pytest

from edgeport.scheme import TensorScheme


@pytest.mark.parametrize(
    ("kind", "block", "text", "bits", "bits_per_weight"),
    [
        ("int2", 32, "int2-g32", 2, 2.5),
        ("int4", 32, "int4-g32", 4, 4.5),
        ("int4", 128, "int4-g128", 4, 4.125),
        ("int8", 64, "int8-g64", 8, 8.25),
        ("bf16", 0, "bf16", 16, 16.0),
        ("f32", 0, "f32", 32, 32.0),
    ],
)
def test_sizes_and_names(kind: Any, block: int, text: str, bits: int, bits_per_weight: float) -> None:
    scheme = TensorScheme(kind, block)
    assert (str(scheme), scheme.bits, scheme.bits_per_weight) == (text, bits, bits_per_weight)
    assert scheme.is_quantized is bool(block)


@pytest.mark.parametrize(
    ("kind", "block"), [("int4", 0), ("int4", 16), ("int2", 256), ("int8", 256), ("f16", 32)]
)
def test_impossible_blocks(kind: Any, block: int) -> None:
    with pytest.raises(ValueError, match="block"):
        TensorScheme(kind, block)
