"""gptq against an independent implementation, its fallbacks, and what it is for: less output error than rounding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize import gptq, imatrix, rtn
from edgeport.export.quantize.grid import Floats, is_on_grid
from edgeport.export.quantize.refine import refine
from edgeport.export.quantize.solver import SolvedRows, Solver
from edgeport.scheme import TensorScheme

Doubles = npt.NDArray[np.float64]
INT4 = TensorScheme("int4", 32)


def correlated_inputs(features: int, tokens: int, *, seed: int) -> Floats:
    """[tokens, features] with correlated features of unequal size."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((features, features)) * np.exp(generator.standard_normal(features))
    return (generator.standard_normal((tokens, features)) @ mixing / np.sqrt(features)).astype(np.float32)


def statistics_of(inputs: Floats) -> InputStatistics:
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    return InputStatistics(len(inputs), np.diag(hessian).copy(), np.abs(inputs).mean(axis=0), hessian)


def output_error(solved: SolvedRows, values: Floats, hessian: Floats) -> float:
    """tr(dW H dW^T) / tr(W H W^T) in float64."""
    difference = solved.dequantize().astype(np.float64) - values
    wide = values.astype(np.float64)
    return float(((difference @ hessian) * difference).sum() / ((wide @ hessian) * wide).sum())


def textbook_codes(
    values: Floats, scales: Floats, hessian: Floats, *, damping: float
) -> npt.NDArray[np.int8]:
    """Optimal brain quantization as first written down (arXiv:2208.11580, section 4): after each column the inverse of
    the remaining Hessian is updated by Gaussian elimination. No Cholesky factor, no blocks, all in float64."""
    wide: Doubles = hessian.astype(np.float64)
    order = np.argsort(-np.diag(wide), kind="stable")
    wide = wide + damping * np.diag(wide).mean() * np.eye(len(wide))
    inverse = np.linalg.inv(wide)
    work = values.astype(np.float64)
    codes = np.zeros(values.shape, dtype=np.int8)
    left = list(order)
    for column in order:
        scale = scales[:, column // INT4.block].astype(np.float64)
        code = np.clip(np.rint(work[:, column] / scale), -8, 7)
        codes[:, column] = code
        left.remove(column)
        if left:
            error = (work[:, column] - code * scale) / inverse[column, column]
            work[:, left] -= np.outer(error, inverse[column, left])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return codes


def test_codes_are_those_of_the_textbook() -> None:
    values = np.random.default_rng(1).standard_normal((48, 160)).astype(np.float32)
    statistics = statistics_of(correlated_inputs(160, 2000, seed=2))
    assert statistics.hessian is not None
    solved = gptq.prepare(statistics)(values, INT4)
    expected = textbook_codes(
        values, solved.scales.astype(np.float32), statistics.hessian, damping=gptq.DAMPING
    )
    # float32 against float64: a value half-way between two codes may fall on either side, and its row goes on from there
    same_rows = (solved.codes == expected).all(axis=1).mean()
    assert same_rows > 0.9
    assert (solved.codes == expected).mean() > 0.99


@pytest.mark.parametrize("prepare", [gptq.prepare, gptq.prepare_weighted, gptq.prepare_refined])
def test_less_output_error_than_rounding(prepare: Solver) -> None:
    values = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    statistics = statistics_of(correlated_inputs(256, 4000, seed=4))
    assert statistics.hessian is not None
    solved = prepare(statistics)(values, INT4)
    assert is_on_grid(solved.scales, 7)
    rounded = output_error(rtn.solve(values, INT4), values, statistics.hessian)
    weighted = output_error(imatrix.solve(values, INT4, statistics), values, statistics.hessian)
    assert weighted < 0.95 * rounded
    assert output_error(solved, values, statistics.hessian) < 0.6 * rounded


def test_known_optimum_on_an_orthogonal_layer_is_found() -> None:
    """Weights that lie on the grid, seen through a random rotation: the optimum is zero error, at these very codes."""
    generator = np.random.default_rng(5)
    codes = generator.integers(-8, 8, (32, 128)).astype(np.int8)
    codes[:, ::32] = -8  # the largest magnitude of each block tells the scale
    scales = np.full((32, 4), 0.015625, dtype=np.float32)
    values = SolvedRows(codes, scales.astype(np.float16)).dequantize()
    rotation, _ = np.linalg.qr(generator.standard_normal((128, 128)))
    statistics = statistics_of((generator.standard_normal((1000, 128)) @ rotation).astype(np.float32))
    for prepare in (rtn.prepare, imatrix.prepare, gptq.prepare, gptq.prepare_weighted, gptq.prepare_refined):
        solved = prepare(statistics)(values, INT4)
        assert np.array_equal(solved.dequantize(), values)


def test_pieces_of_rows_give_what_the_whole_gives() -> None:
    values = np.random.default_rng(6).standard_normal((40, 64)).astype(np.float32)
    solve = gptq.prepare(statistics_of(correlated_inputs(64, 500, seed=7)))
    whole, first, second = solve(values, INT4), solve(values[:13], INT4), solve(values[13:], INT4)
    assert np.array_equal(whole.codes, np.concatenate([first.codes, second.codes]))


def test_a_feature_that_was_never_excited_is_rounded_to_nearest() -> None:
    inputs = correlated_inputs(64, 500, seed=8)
    inputs[:, 5] = 0
    values = np.random.default_rng(9).standard_normal((16, 64)).astype(np.float32)
    solved = gptq.prepare(statistics_of(inputs))(values, INT4)
    nearest = np.clip(np.rint(values[:, 5] / solved.scales[:, 0].astype(np.float32)), -8, 7)
    assert np.array_equal(solved.codes[:, 5], nearest)
    assert np.isfinite(solved.dequantize()).all()


def test_all_inputs_zero_is_plain_rounding() -> None:
    values = np.random.default_rng(10).standard_normal((16, 64)).astype(np.float32)
    solved = gptq.prepare_weighted(statistics_of(np.zeros((10, 64), np.float32)))(values, INT4)
    assert np.array_equal(solved.codes, rtn.solve(values, INT4).codes)


def test_singular_hessian_of_few_tokens_is_damped() -> None:
    """Fewer tokens than features: rank 20 of 64, and duplicated features on top."""
    inputs = correlated_inputs(64, 20, seed=11)
    inputs[:, 32:] = inputs[:, :32]
    feedback = gptq.error_feedback(statistics_of(inputs).hessian)  # type: ignore[arg-type]
    assert feedback.damping >= gptq.DAMPING
    assert np.isfinite(feedback.upper).all()


def test_an_indefinite_matrix_takes_more_damping_and_says_how_much() -> None:
    hessian = np.eye(64, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1.05  # eigenvalue -0.05: one percent is not enough, ten are
    assert gptq.error_feedback(hessian).damping == pytest.approx(0.1)


def test_a_matrix_that_no_damping_mends_is_refused() -> None:
    hessian = np.eye(64, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1e6
    with pytest.raises(UnsupportedModel, match="not positive definite") as caught:
        gptq.error_feedback(hessian)
    assert "--solver imatrix" in str(caught.value.hint)


def test_a_hessian_with_nan_is_refused() -> None:
    hessian = np.eye(64, dtype=np.float32)
    hessian[3, 3] = np.nan
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        gptq.error_feedback(hessian)


def test_refining_lowers_the_error_of_every_row_or_leaves_it() -> None:
    values = np.random.default_rng(12).standard_normal((64, 256)).astype(np.float32)
    statistics = statistics_of(correlated_inputs(256, 3000, seed=13))
    assert statistics.hessian is not None
    hessian = gptq.damped_hessian(statistics.hessian, gptq.DAMPING)
    start = gptq.prepare(statistics)(values, INT4)
    better = refine(values, start, INT4, hessian)

    def row_errors(solved: SolvedRows) -> Doubles:
        difference = solved.dequantize().astype(np.float64) - values
        return np.einsum("rk,kl,rl->r", difference, hessian, difference)

    before, after = row_errors(start), row_errors(better)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.97 * before.sum()
    assert is_on_grid(better.scales, 7)


def test_refined_codes_are_a_minimum_in_every_single_code() -> None:
    """With the scales as they are, no code of any row can be changed by one step to less error."""
    values = np.random.default_rng(14).standard_normal((8, 64)).astype(np.float32)
    statistics = statistics_of(correlated_inputs(64, 500, seed=15))
    assert statistics.hessian is not None
    hessian = gptq.damped_hessian(statistics.hessian, gptq.DAMPING).astype(np.float64)
    solved = gptq.prepare(statistics)(values, INT4)
    for _ in range(6):
        solved = refine(values, solved, INT4, hessian.astype(np.float32))
    steps = np.repeat(solved.scales.astype(np.float64), INT4.block, axis=1)
    pull = (values - solved.codes * steps) @ hessian
    change = np.abs(pull / (np.diag(hessian) * steps))
    inside = (solved.codes > -8) & (solved.codes < 7)
    assert (change[inside] < 0.51).mean() > 0.99


def test_the_corrected_target_does_on_the_disturbed_input_what_the_weight_did() -> None:
    """With a disturbance that a linear map can undo, the corrected float weight undoes it."""
    generator = np.random.default_rng(16)
    undisturbed = correlated_inputs(64, 4000, seed=17)
    disturbed = (undisturbed @ (np.eye(64) + 0.05 * generator.standard_normal((64, 64)))).astype(np.float32)
    hessian = (disturbed.T @ disturbed / 4000).astype(np.float32)
    cross = (undisturbed.T @ disturbed / 4000).astype(np.float32)
    values = generator.standard_normal((16, 64)).astype(np.float32)
    corrected = values + values @ gptq.target_correction(hessian, cross, 1e-6)
    wanted = undisturbed @ values.T
    before = np.square(disturbed @ values.T - wanted).mean()
    assert np.square(disturbed @ corrected.T - wanted).mean() < 0.01 * before
