"""Each method against the same thing written another way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgeport.errors import UnsupportedModel
from edgeport.export.calibrate.statistics import InputStatistics
from edgeport.export.quantize.gptq import DAMPING
from edgeport.export.sparsify import magnitude, sparsegpt, wanda
from edgeport.export.sparsify.method import Target
from edgeport.export.sparsify.pattern import PATTERNS

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
HALF = Target(0.5, PATTERNS["unstructured"])


def inputs_of(features: int, tokens: int, *, seed: int) -> Floats:
    """[tokens, features], correlated, of unequal size."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((features, features)) * np.exp(generator.standard_normal(features))
    return (generator.standard_normal((tokens, features)) @ mixing / np.sqrt(features)).astype(np.float32)


def statistics_of(inputs: Floats) -> InputStatistics:
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    return InputStatistics(len(inputs), np.diag(hessian).copy(), np.abs(inputs).mean(axis=0), hessian)


def weights_of(rows: int, columns: int) -> Floats:
    return np.random.default_rng(7).standard_normal((rows, columns)).astype(np.float32)


def damped(statistics: InputStatistics) -> Doubles:
    assert statistics.hessian is not None
    wide = statistics.hessian.astype(np.float64)
    return wide + DAMPING * np.diag(wide).mean() * np.eye(len(wide))


def output_error(sparse: Floats, values: Floats, inputs: Floats) -> float:
    """|(V - W) x|^2 / |W x|^2 over all rows and tokens."""
    return float((((sparse - values) @ inputs.T) ** 2).sum() / ((values @ inputs.T) ** 2).sum())


def test_magnitude_keeps_the_largest() -> None:
    values = weights_of(16, 64)
    sparse = magnitude.prepare(None)(values, HALF)
    for row, kept in zip(values, sparse, strict=True):
        largest = sorted(row.tolist(), key=abs)[32:]
        assert sorted(kept[kept != 0].tolist()) == sorted(largest)


def test_wanda_weighs_by_the_norm_of_the_inputs() -> None:
    values, inputs = weights_of(16, 64), inputs_of(64, 300, seed=1)
    sparse = wanda.prepare(statistics_of(inputs))(values, HALF)
    for row, found in zip(values, sparse, strict=True):
        scores = [abs(row[column]) * float(np.linalg.norm(inputs[:, column])) for column in range(64)]
        kept = set(np.argsort(scores)[32:].tolist())
        assert set(np.flatnonzero(found).tolist()) == kept
        assert (found[list(kept)] == row[list(kept)]).all()


@pytest.mark.parametrize("name", list(PATTERNS))
def test_sparsegpt_answers_as_a_dense_solve_does(name: str) -> None:
    """With the columns up to j given, those right of j are the least-squares solution, for every j in turn:
    w_R = w0_R - H_RR^-1 H_RL (w_L - w0_L), solved anew in float64 for each row and each column."""
    values = weights_of(6, 144)  # more than one block of columns
    statistics = statistics_of(inputs_of(144, 2000, seed=2))
    sparse = sparsegpt.prepare(statistics)(values, Target(0.5, PATTERNS[name]))
    hessian = damped(statistics)
    for start, found in zip(values.astype(np.float64), sparse, strict=True):
        row = start.copy()
        for column in range(144):
            if found[column] == 0:
                row[column] = 0.0
            left, right = slice(0, column + 1), slice(column + 1, None)
            moved = hessian[right, left] @ (row[left] - start[left])
            row[right] = start[right] - np.linalg.solve(hessian[right, right], moved)
        assert found == pytest.approx(row, rel=2e-3, abs=2e-3)


def test_sparsegpt_is_the_least_squares_fit_where_only_the_left_goes() -> None:
    """Inputs of which the first half hardly says anything: it goes whole, and the rest is fitted to the dense outputs."""
    inputs = inputs_of(64, 3000, seed=3)
    inputs[:, :32] *= 1e-2
    values = weights_of(8, 64)
    values += 4 * np.sign(values)  # none that is free to go by itself
    values[:, :32] *= 1e-2
    statistics = statistics_of(inputs)
    sparse = sparsegpt.prepare(statistics)(values, HALF)
    assert (sparse[:, :32] == 0).all() and (sparse[:, 32:] != 0).all()
    root = np.linalg.cholesky(
        damped(statistics)
    ).T  # x with the damping: rows whose products are the damped Hessian
    for row, found in zip(values, sparse, strict=True):
        fitted, *_ = np.linalg.lstsq(root[:, 32:], root @ row.astype(np.float64), rcond=None)
        assert found[32:] == pytest.approx(fitted, rel=1e-3, abs=1e-3)


def test_sparsegpt_picks_what_costs_least() -> None:
    """In the first block the loss of zeroing w_j, all others free to answer, is w_j**2 / [H^-1]_jj; with H^-1 of the
    columns from j on."""
    values = weights_of(4, 16)
    statistics = statistics_of(inputs_of(16, 500, seed=4))
    sparse = sparsegpt.prepare(statistics)(values, HALF)
    hessian = damped(statistics)
    costs = np.empty(values.shape)
    for column in range(16):
        costs[:, column] = values[:, column] ** 2 / np.linalg.inv(hessian[column:, column:])[0, 0]
    expected = np.zeros(values.size, dtype=bool)
    expected[np.argsort(costs.reshape(-1))[: values.size // 2]] = True
    assert ((sparse == 0).reshape(-1) == expected).all()


@pytest.mark.parametrize("sparsity", [0.37, 0.5, 0.81])
def test_sparsegpt_counts_to_the_last_weight(sparsity: float) -> None:
    values = weights_of(10, 300)
    statistics = statistics_of(inputs_of(300, 1000, seed=5))
    sparse = sparsegpt.prepare(statistics)(values, Target(sparsity, PATTERNS["unstructured"]))
    assert (sparse == 0).sum() == round(sparsity * values.size)


@pytest.mark.parametrize(("name", "group"), [("2:4", 4), ("4:8", 8)])
def test_sparsegpt_keeps_half_of_every_group(name: str, group: int) -> None:
    statistics = statistics_of(inputs_of(256, 1000, seed=6))
    sparse = sparsegpt.prepare(statistics)(weights_of(10, 256), Target(0.5, PATTERNS[name]))
    assert ((sparse.reshape(-1, group) == 0).sum(axis=1) == group // 2).all()


def test_features_that_never_fire_go_first() -> None:
    inputs = inputs_of(64, 500, seed=8)
    inputs[:, 10:20] = 0
    for method in (wanda, sparsegpt):
        sparse = method.prepare(statistics_of(inputs))(weights_of(8, 64), HALF)
        assert (sparse[:, 10:20] == 0).all()


def test_each_method_beats_the_one_before() -> None:
    """Features of unequal size, and few directions among many features: what goes can be made good."""
    generator = np.random.default_rng(9)
    directions = generator.standard_normal((40, 128)) * np.exp(generator.standard_normal(128) / 2)
    inputs = (generator.standard_normal((2000, 40)) @ directions).astype(np.float32)
    values, statistics = weights_of(32, 128), statistics_of(inputs)
    errors = [
        output_error(method.prepare(statistics)(values, HALF), values, inputs)
        for method in (magnitude, wanda, sparsegpt)
    ]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.5 * errors[1], errors


def test_a_hessian_that_is_not_finite_is_refused() -> None:
    statistics = statistics_of(inputs_of(16, 50, seed=1))
    assert statistics.hessian is not None
    statistics.hessian[0, 0] = np.inf
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        sparsegpt.prepare(statistics)
