"""Figures with their 95 % intervals: shares, means, ratios of sums, medians where some are censored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ..errors import InputError

LEVEL: Final = 0.95
DRAWS: Final = 2000
"""Samples of a bootstrap; they come from one fixed seed, so that a table is the same when made again."""
_HELD: Final = 4_000_000
"""Weights that are held at once."""
Statistic = Callable[[Float[np.ndarray, "draw row"]], Float[np.ndarray, "draw"]]
"""A figure of weighted rows: of the whole sample with weights 1, of a bootstrap sample with its counts."""


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its 95 % interval, and the number of rows that it rests on.

    Without a row the value is NaN; with fewer than two the interval is everything.
    """

    value: float
    low: float
    high: float
    n: int


def share(hits: Bool[np.ndarray, "row"]) -> Estimate:
    """A share with Wilson's interval."""
    return wilson(int(hits.sum()), len(hits))


def wilson(hits: int, n: int) -> Estimate:
    """The share of hits with the interval of Wilson (1927): centre (p + z^2/2n) / (1 + z^2/n), in 0..1."""
    if n == 0:
        return _nothing()
    p = hits / n
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def mean(values: Float[np.ndarray, "row"], groups: Sequence[Any] | None = None) -> Estimate:
    """A mean; rows that are NaN have no value and do not count. Bootstrap over rows, percentiles.

    Values that are all 0 or 1 are a share, with Wilson's interval: where all are equal a bootstrap has no
    width.

    Args:
        groups: what rows belong together (several boxes of one image): the bootstrap draws whole groups.
    """
    there = ~np.isnan(values)
    if groups is None and np.isin(values[there], (0, 1)).all():
        return share(values[there] == 1)
    if groups is None:
        return _plain_mean(values[there])
    kept = [group for group, use in zip(groups, there, strict=True) if use]
    names = {name: index for index, name in enumerate(dict.fromkeys(kept))}
    places = np.array([names[group] for group in kept], dtype=int)
    sums = np.bincount(places, values[there], len(names)).astype(float)  # integers where there is no row
    found = pooled(sums[:, None], np.bincount(places, minlength=len(names)).astype(float)[:, None])
    return Estimate(found.value, found.low, found.high, len(kept))


def _plain_mean(values: Float[np.ndarray, "row"]) -> Estimate:
    """Always by bootstrap; a sample's counts add up to the number of rows."""

    def average(weights: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, "draw"]:
        with np.errstate(invalid="ignore"):  # an infinite value that a sample leaves out
            return weights @ values / len(values)

    return bootstrap(average, len(values))


def pooled(
    numerators: Float[np.ndarray, "row part"], denominators: Float[np.ndarray, "row part"]
) -> Estimate:
    """The mean over parts of a ratio of sums over rows, such as mIoU pooled over a data set."""

    def ratio(weights: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, "draw"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((weights @ numerators) / (weights @ denominators)).mean(1)

    return bootstrap(ratio, len(numerators))


def median(values: Float[np.ndarray, "row"]) -> Estimate:
    """The lower median. Censored values are infinite: where half of them are, so is the median."""
    order = np.argsort(values, kind="stable")

    def middle(weights: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, "draw"]:
        reached = 2 * weights[:, order].cumsum(1) >= weights.sum(1, keepdims=True)
        return values[order][reached.argmax(1)]

    return bootstrap(middle, len(values))


def deviation(values: Float[np.ndarray, "row"]) -> Estimate:
    """The standard deviation over rows (divided by n); rows that are NaN do not count."""
    known = values[~np.isnan(values)]

    def spread(weights: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, "draw"]:
        total = weights.sum(1)
        centre = weights @ known / total
        return np.sqrt(np.maximum(weights @ known**2 / total - centre**2, 0.0))

    return bootstrap(spread, len(known))


def paired(
    values: Float[np.ndarray, "row"], others: Float[np.ndarray, "row"], groups: Sequence[Any] | None = None
) -> Estimate:
    """The mean difference of two columns over the same rows; where either is NaN the row does not count.

    Always by bootstrap: differences of 0 and 1 alone are no share, and one 1 among many 0 is no evidence.

    Args:
        groups: as in `mean`.
    """
    apart = values - others
    return _plain_mean(apart[~np.isnan(apart)]) if groups is None else mean(apart, groups)


def bootstrap(statistic: Statistic, n: int, draws: int = DRAWS) -> Estimate:
    """Any statistic of weighted rows, with the percentiles of its bootstrap (Efron 1979)."""
    if n == 0:
        return _nothing()
    value = float(statistic(np.ones((1, n)))[0])
    if n == 1:
        return Estimate(value, -math.inf, math.inf, n)
    drawn = np.concatenate([statistic(counts) for counts in _counts(n, draws)])
    low, high = np.quantile(drawn[~np.isnan(drawn)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Estimate(value, float(low), float(high), n)


def _counts(n: int, draws: int) -> Iterator[Float[np.ndarray, "draw row"]]:
    """How often each row is in each of the bootstrap samples, in portions."""
    step = max(1, _HELD // n)
    if draws <= step:
        yield _drawn_once(n, draws)
        return
    random = np.random.default_rng(0)
    for start in range(0, draws, step):
        yield random.multinomial(n, np.full(n, 1 / n), size=min(step, draws - start)).astype(float)


@lru_cache(maxsize=4)
def _drawn_once(n: int, draws: int) -> Float[np.ndarray, "draw row"]:
    """One portion that is all of them: drawing costs more than what is done with it, for every figure."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def _nothing() -> Estimate:
    return Estimate(math.nan, -math.inf, math.inf, 0)


def column(values: Shaped[np.ndarray, "row *_"], name: str, axes: int = 1) -> Float[np.ndarray, "row *_"]:
    """The values as float64 with so many axes.

    Raises:
        InputError: for another number of axes.
    """
    if values.ndim != axes:
        raise InputError(f"column {name} must have {axes} axes, got shape {values.shape}")
    return values.astype(float)
