"""The activation-weighted search: what it gathers, that it scores what the block does to the output, and its fallbacks."""

from __future__ import annotations

import numpy as np
import pytest

from edgeport.export.calibrate.gather import Gatherer
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import imatrix, local_search, rtn
from edgeport.export.quantize.grid import Floats, is_on_grid
from edgeport.export.quantize.solver import SolvedRows
from edgeport.scheme import SCALE_SIGNIFICANT_BITS, TensorScheme


def inputs_of(features: int, tokens: int = 2000) -> Floats:
    """Neighbouring features correlated, as after a norm with a common direction."""
    generator = np.random.default_rng(1)
    common = generator.standard_normal((tokens, 1))
    return (generator.standard_normal((tokens, features)) + common).astype(np.float32)


def gathered(inputs: Floats, *, hessian: bool) -> InputStatistics:
    import torch

    gatherer = Gatherer("layer", inputs.shape[1], hessian=hessian)
    for piece in np.array_split(inputs, 3):
        gatherer.add(torch.from_numpy(piece))
    return gatherer.statistics()


def output_error(solved: SolvedRows, values: Floats, inputs: Floats) -> float:
    return float(np.square(inputs @ (solved.dequantize() - values).T).mean())


@pytest.mark.parametrize("hessian", [False, True])
def test_local_products_are_the_blocks_of_the_second_moment_matrix(hessian: bool) -> None:
    inputs = inputs_of(96)
    local = gathered(inputs, hessian=hessian).local_products()
    whole = inputs.T.astype(np.float64) @ inputs / len(inputs)
    assert local is not None
    for block in range(3):
        part = slice(32 * block, 32 * block + 32)
        np.testing.assert_allclose(local[block], whole[part, part], rtol=1e-4, atol=1e-5)


def test_features_that_no_block_divides_have_none() -> None:
    assert gathered(inputs_of(48), hessian=False).local_products() is None


@pytest.mark.parametrize("scheme", ["int4-32", "int4-64", "int8-32", "int2-32"])
def test_less_output_error_than_the_diagonal_alone(scheme: str) -> None:
    kind, block = scheme.split("-")
    wanted = TensorScheme(kind, int(block))  # type: ignore[arg-type]
    inputs = inputs_of(128)
    statistics = gathered(inputs, hessian=False)
    values = np.random.default_rng(2).standard_normal((200, 128)).astype(np.float32)
    whole = imatrix.prepare(statistics)(values, wanted)
    diagonal = rtn.solve_weighted(values, wanted, imatrix.importance(statistics))
    assert is_on_grid(whole.scales, SCALE_SIGNIFICANT_BITS[wanted.bits])
    least = 1.0 if wanted.bits == 8 else 0.95
    assert output_error(whole, values, inputs) <= least * output_error(diagonal, values, inputs)


def test_codes_are_those_of_rtn_where_features_are_alike_and_uncorrelated() -> None:
    values = np.random.default_rng(3).standard_normal((50, 64)).astype(np.float32)
    alike = np.tile(np.eye(32, dtype=np.float32), (2, 1, 1))
    scheme = TensorScheme("int4", 32)
    found, plain = local_search.solve(values, scheme, alike), rtn.solve(values, scheme)
    assert (found.scales == plain.scales).mean() > 0.98  # candidates of equal error may tie in float32


def test_a_silent_block_is_searched_as_if_all_features_were_alike() -> None:
    values = np.random.default_rng(4).standard_normal((20, 64)).astype(np.float32)
    local = np.zeros((2, 32, 32), dtype=np.float32)
    scheme = TensorScheme("int4", 32)
    found, plain = local_search.solve(values, scheme, local), rtn.solve(values, scheme)
    assert (found.scales == plain.scales).mean() > 0.95
