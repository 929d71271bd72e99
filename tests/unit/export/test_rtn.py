"""The data-free solver against the plain rule it must beat, on Gaussian and on degenerate blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeport.errors import UnsupportedModel
from edgeport.export.quantize import rtn
from edgeport.export.quantize.grid import is_on_grid, round_to_grid
from edgeport.export.quantize.run import quantize, quantize_tensor
from edgeport.export.recipe import load_recipe
from edgeport.export.source import open_source
from edgeport.progress import NO_PROGRESS
from edgeport.scheme import BLOCK_SIZES, SCALE_SIGNIFICANT_BITS, TensorScheme

Floats = npt.NDArray[np.float32]
SCHEMES = [TensorScheme(kind, block) for kind in ("int2", "int4", "int8") for block in BLOCK_SIZES]
# Relative squared error on Gaussian weights of an exhaustive search over signed scales; mine is a search of 13 candidates.
EXHAUSTIVE = {
    ("int2", 32): 0.1098,
    ("int4", 32): 6.54e-3,
    ("int4", 64): 8.06e-3,
    ("int4", 128): 9.31e-3,
}


def values_of(solved: rtn.SolvedRows, block: int) -> Floats:
    codes = solved.codes.reshape(-1, block).astype(np.float32)
    values: Floats = (codes * solved.scales.reshape(-1, 1).astype(np.float32)).reshape(solved.codes.shape)
    return values


def block_errors(values: Floats, scheme: TensorScheme, solved: rtn.SolvedRows) -> npt.NDArray[np.float64]:
    difference = (values_of(solved, scheme.block) - values).astype(np.float64).reshape(-1, scheme.block)
    return np.asarray((difference**2).sum(axis=1))


def plain_errors(values: Floats, scheme: TensorScheme) -> npt.NDArray[np.float64]:
    """max / -8 (or -128) on the grid, round to nearest, one block after the other."""
    lowest = 1 << (scheme.bits - 1)
    errors = []
    for block in values.reshape(-1, scheme.block):
        largest = block[np.abs(block).argmax()]
        scale = round_to_grid(np.array([largest / -lowest], np.float32), SCALE_SIGNIFICANT_BITS[scheme.bits])[
            0
        ]
        codes = np.clip(np.rint(block / scale), -lowest, lowest - 1)
        errors.append(((codes.astype(np.float64) * scale - block) ** 2).sum())
    return np.array(errors)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_never_worse_than_plain_rounding(scheme: TensorScheme) -> None:
    values = np.random.default_rng(7).standard_t(4, (64, 512)).astype(np.float32)
    solved = rtn.solve(values, scheme)
    mine, plain = block_errors(values, scheme, solved), plain_errors(values, scheme)
    assert (mine <= plain * (1 + 1e-4)).all()
    if scheme.bits < 8:
        assert mine.sum() < 0.95 * plain.sum(), "the search must be worth something"


@pytest.mark.parametrize(("kind", "block"), EXHAUSTIVE)
def test_error_is_close_to_the_exhaustive_search(kind: Any, block: int) -> None:
    values = np.random.default_rng(0).standard_normal((256, 4096)).astype(np.float32)
    scheme = TensorScheme(kind, block)
    error = (
        block_errors(values, scheme, rtn.solve(values, scheme)).sum() / (values.astype(np.float64) ** 2).sum()
    )
    assert error == pytest.approx(EXHAUSTIVE[kind, block], rel=0.03)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_scales_are_on_the_grid_and_codes_in_range(scheme: TensorScheme) -> None:
    values = np.random.default_rng(1).standard_normal((9, 384)).astype(np.float32)
    solved = rtn.solve(values, scheme)
    assert solved.codes.dtype == np.int8 and solved.scales.dtype == np.float16
    assert solved.scales.shape == (9, 384 // scheme.block)
    assert is_on_grid(solved.scales, SCALE_SIGNIFICANT_BITS[scheme.bits])
    limit = 1 << (scheme.bits - 1)
    assert solved.codes.min() >= -limit and solved.codes.max() < limit


def test_degenerate_blocks() -> None:
    scheme = TensorScheme("int4", 32)
    rows = np.zeros((6, 32), np.float32)
    rows[1] = 0.37  # constant
    rows[2, 5] = -3.0  # one element
    rows[3] = 1e-30  # below what a scale can hold
    rows[4] = np.linspace(-1500, 1500, 32)  # near the largest scale
    rows[5] = np.linspace(-1e-4, 1e-4, 32)
    solved = rtn.solve(rows, scheme)
    got = values_of(solved, 32)
    assert not got[0].any() and not got[3].any()
    assert np.abs(got[1] - 0.37).max() < 0.37 * 2**-7
    assert got[2, 5] == pytest.approx(-3.0, rel=2**-7) and not np.delete(got[2], 5).any()
    assert np.abs(got[4] - rows[4]).max() <= 1500 / 8
    assert np.abs(got[5] - rows[5]).max() <= 1e-4 / 8
    assert np.isfinite(got).all()


@settings(max_examples=60)
@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=32, max_size=32),
    st.sampled_from(["int2", "int4", "int8"]),
)
def test_any_finite_block(numbers: list[float], kind: str) -> None:
    values = np.array([numbers], np.float32)
    scheme = TensorScheme(kind, 32)  # type: ignore[arg-type]
    solved = rtn.solve(values, scheme)
    assert is_on_grid(solved.scales, SCALE_SIGNIFICANT_BITS[scheme.bits])
    tolerance = 1e-4 * plain_errors(values, scheme) + 1e-12
    assert (block_errors(values, scheme, solved) <= plain_errors(values, scheme) + tolerance).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    values = np.random.default_rng(2).standard_normal((700, 128)).astype(np.float32)
    scheme = TensorScheme("int4", 32)
    whole = rtn.solve(values, scheme)
    alone = rtn.solve(values[123:124], scheme)
    assert np.array_equal(whole.codes[123:124], alone.codes)
    assert np.array_equal(whole.scales[123:124], alone.scales)


@pytest.mark.parametrize("kind", ["int2", "int4", "int8"])
def test_weights_beyond_the_largest_scale_are_refused_and_not_clipped(kind: str) -> None:
    values = np.full((2, 32), 40000.0, np.float32)
    with pytest.raises(UnsupportedModel, match=r"layer\.weight"):
        quantize_tensor(values, TensorScheme(kind, 32), name="layer.weight")  # type: ignore[arg-type]


def test_not_finite_values_are_refused_by_name() -> None:
    for bad in (np.nan, np.inf):
        values = np.ones((3, 32), np.float32)
        values[2, 7] = bad
        for scheme in (TensorScheme("int4", 32), TensorScheme("bf16")):
            with pytest.raises(UnsupportedModel, match=r"layer\.weight holds NaN or infinite"):
                quantize_tensor(values, scheme, name="layer.weight")


def test_float16_overflow_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"layer\.weight has values beyond the range of f16"):
        quantize_tensor(np.full((1, 4), 70000.0, np.float32), TensorScheme("f16"), name="layer.weight")


def test_the_same_bytes_from_any_number_of_threads(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    source = open_source(str(tiny_qwen2_dir))
    written = []
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        quantize(
            source, replace(load_recipe("int4"), solver="rtn"), folder, threads=threads, progress=NO_PROGRESS
        )
        written.append([(path.name, path.read_bytes()) for path in sorted(folder.glob("*.*"))])
    assert written[0] == written[1]
