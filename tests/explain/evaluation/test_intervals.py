"""Intervals against closed forms, brute force and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from heedful.explain import InputError
from heedful.explain.evaluation.intervals import (
    bootstrap,
    column,
    deviation,
    mean,
    median,
    paired,
    pooled,
    share,
)

VALUES = np.random.default_rng(1).gamma(2.0, 1.0, 200)


def test_a_share_has_wilsons_interval() -> None:
    found = share(np.arange(10) < 8)

    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.49016, 0.94331), abs=1e-5)  # published example
    assert share(np.zeros(50, dtype=bool)).high > 0.05  # none of 50 is not none at all


def test_a_mean_has_the_interval_of_the_normal_approximation() -> None:
    found, half = mean(VALUES), 1.96 * VALUES.std() / math.sqrt(200)

    assert found.value == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)
    assert mean(VALUES) == found  # again the same


def test_rows_without_a_value_do_not_count() -> None:
    with_gaps = np.concatenate([VALUES, np.full(30, math.nan)])

    assert mean(with_gaps) == mean(VALUES)
    assert deviation(with_gaps).value == pytest.approx(VALUES.std())


def test_rows_of_one_group_do_not_make_an_interval_narrower() -> None:
    repeated, groups = np.repeat(VALUES, 4), np.repeat(np.arange(200), 4).tolist()
    found, once, naive = mean(repeated, groups), mean(VALUES), mean(repeated)

    assert (found.low, found.high) == pytest.approx((once.low, once.high))
    assert found.n == 800
    assert naive.high - naive.low < 0.6 * (found.high - found.low)


def test_pooled_figures_are_ratios_of_sums() -> None:
    shared, joined = np.array([[1.0, 4.0], [3.0, 0.0]]), np.array([[2.0, 8.0], [10.0, 2.0]])

    assert pooled(shared, joined).value == pytest.approx((4 / 12 + 4 / 10) / 2)


def test_a_median_knows_censored_values() -> None:
    assert median(np.array([3.0, 1.0, math.inf, 2.0, math.inf])).value == 3
    found = median(np.array([1.0, math.inf, math.inf]))
    assert (found.value, found.low, found.high) == (math.inf, 1, math.inf)
    drawn = [np.sort(np.random.default_rng(i).choice(VALUES, 200))[99] for i in range(400)]
    assert median(VALUES).low == pytest.approx(np.quantile(drawn, 0.025), abs=0.1)


def test_a_paired_difference_is_narrower_than_what_it_compares() -> None:
    found = paired(VALUES + 0.1, VALUES)

    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_too_few_rows_claim_nothing() -> None:
    nothing, one = mean(np.zeros(0)), mean(np.full(1, 0.5))

    assert (nothing.n, nothing.low, nothing.high) == (0, -math.inf, math.inf)
    assert math.isnan(nothing.value)
    assert math.isnan(share(np.zeros(0, dtype=bool)).value)
    assert (one.value, one.low, one.high) == (0.5, -math.inf, math.inf)
    assert mean(np.ones(30)) == share(np.ones(30, dtype=bool))  # not 1 to 1


def test_portions_of_the_bootstrap_are_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap(lambda weights: weights @ VALUES / 200, 200)
    monkeypatch.setattr("heedful.explain.evaluation.intervals._HELD", 200 * 7)

    assert bootstrap(lambda weights: weights @ VALUES / 200, 200) == whole


def test_a_column_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match="column hit must have 1 axes"):
        column(np.zeros((2, 3)), "hit")
