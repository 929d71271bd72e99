"""A container whose rows are not the source's gets no identity; rounding alone does not look like that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize

from edgeport.errors import GateFailure
from edgeport.export.verify.native import allowed_error, nearness

Floats = npt.NDArray[np.float32]


@pytest.fixture
def source() -> Floats:
    return np.random.default_rng(2).standard_normal((64, 256), dtype=np.float32) * np.float32(0.02)


@pytest.mark.parametrize(("name", "bits"), [("Q4_0", 4.5), ("Q5_0", 5.5), ("Q8_0", 8.5), ("TQ1_0", 1.6875)])
def test_rounding_is_near(name: str, bits: float, source: Floats) -> None:
    kind = GGMLQuantizationType[name]
    values = dequantize(quantize(source, kind), kind)
    assert 0 < nearness("w", values, source) < allowed_error(bits)


def test_the_error_is_the_usual_one(source: Floats) -> None:
    values = source + np.float32(0.001)
    expected = np.linalg.norm(values - source) / np.linalg.norm(source)
    assert nearness("w", values, source) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "fault", ["rows swapped", "negated row", "not a number", "wrong scale", "another tensor"]
)
def test_faults_are_named_by_row(fault: str, source: Floats) -> None:
    values = source.copy()
    if fault == "rows swapped":
        values[[5, 9]] = values[[9, 5]]
    elif fault == "negated row":
        values[5] *= -1
    elif fault == "not a number":
        values[5, 7] = np.nan
    elif fault == "wrong scale":
        values[5] = 2.1 * values[5]
    else:
        values[5:] = np.random.default_rng(9).standard_normal((59, 256), dtype=np.float32) * np.float32(0.02)
    with pytest.raises(GateFailure, match="w: row 5 is off"):
        nearness("w", values, source)


def test_small_rows_may_round_coarsely(source: Floats) -> None:
    source[3] *= np.float32(1e-6)
    values = source.copy()
    values[3] = 0
    assert nearness("w", values, source) < 1e-6


def test_vectors_are_equal_or_wrong() -> None:
    norm = np.linspace(0.5, 1.5, 16, dtype=np.float32)
    assert nearness("norm", norm.copy(), norm) == 0
    with pytest.raises(GateFailure, match="norm differs"):
        nearness("norm", norm[::-1].copy(), norm)


def test_more_bits_allow_less() -> None:
    allowed = [allowed_error(bits) for bits in (2.0625, 2.625, 3.4375, 4.5, 5.5, 6.5625, 8.5, 16)]
    assert allowed == sorted(allowed, reverse=True) and allowed[-1] == 1e-3 and allowed_error(None) == 1
    assert allowed_error(4.5) < 0.3
