"""The pure-Python statistics against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeport.runtimes.bench.statistics import (
    coefficient_of_variation,
    mean,
    median,
    percentile,
    standard_deviation,
    summarize,
)

SAMPLES = st.lists(st.floats(min_value=0.001, max_value=1e9), min_size=1, max_size=40)


@given(SAMPLES)
def test_all_equal_numpys(samples: list[float]) -> None:
    assert mean(samples) == pytest.approx(np.mean(samples))
    assert median(samples) == pytest.approx(np.median(samples))
    if len(samples) > 1:
        expected = np.std(samples, ddof=1)
        assert standard_deviation(samples) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert coefficient_of_variation(samples) == pytest.approx(
            expected / np.mean(samples), rel=1e-6, abs=1e-9
        )


@given(SAMPLES, st.floats(min_value=0, max_value=100))
def test_percentiles_interpolate_as_numpy_does(samples: list[float], percent: float) -> None:
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent))


def test_one_sample_has_no_spread() -> None:
    assert summarize([3.0]).standard_deviation == 0.0


def test_known_values() -> None:
    summary = summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert (summary.mean, summary.median, summary.minimum, summary.maximum) == (5, 4.5, 2, 9)
    assert summary.standard_deviation == pytest.approx(2.13809, abs=1e-5)  # sqrt(32 / 7)
    assert summary.variation == pytest.approx(2.13809 / 5, abs=1e-5)


@pytest.mark.parametrize("percent", [-1, 100.1])
def test_a_percent_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="0..100"):
        percentile([1.0], percent)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize([])
