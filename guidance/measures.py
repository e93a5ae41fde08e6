"""What a map of attention says in numbers: how much, where, how concentrated, who else is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import GridMismatchError


@dataclass(frozen=True)
class WordMeasures:
    """Numbers of one word's map A (height, width), a share of the attention at each place, 0 to 1.

    For the last three the map is read as a distribution p = A / sum A over the cells; a map of zeros
    says nothing of place and counts as even. Cells lie at their centres, (row + 0.5) / height and
    (column + 0.5) / width.

    Attributes:
        peak: max A, 0 to 1.
        mass: mean A, the share of the whole image's attention that the word holds, 0 to 1.
        entropy: -sum p log2 p in bits: 0 for one cell, log2(height width) for an even map.
        centre: (row, column) of the centre of p, each 0 (top, left) to 1 (bottom, right).
        spread: root mean square distance from the centre, with both sides of the image of length 1: 0 for
            one cell, sqrt(1/6) = 0.41 for an even map of many cells, at most sqrt(1/2) = 0.71.
    """

    peak: float
    mass: float
    entropy: float
    centre: tuple[float, float]
    spread: float


def measures_of(attention: Float[Tensor, "height width"]) -> WordMeasures:
    """The numbers of one map.

    Raises:
        GridMismatchError: not a map of (height, width) with at least one cell.
    """
    _check(attention, 2, "(height, width)")
    values = attention.detach().double().cpu()
    shares = _distribution(values)
    rows, columns = (torch.arange(side, dtype=torch.float64).add(0.5).div(side) for side in values.shape)
    row = float((shares.sum(1) * rows).sum())
    column = float((shares.sum(0) * columns).sum())
    distance = (rows - row).square()[:, None] + (columns - column).square()
    entropy = -float(torch.special.xlogy(shares, shares).sum()) / float(torch.tensor(2.0).double().log())
    return WordMeasures(
        peak=float(values.max()),
        mass=float(values.mean()),
        entropy=max(entropy, 0.0),
        centre=(row, column),
        spread=float((shares * distance).sum().sqrt()),
    )


def bright(maps: Float[Tensor, "span height width"]) -> Bool[Tensor, "span height width"]:
    """Where each map reaches at least half of its own peak: the area that a word is said to hold."""
    _check(maps, 3, "(span, height, width)")
    return maps >= maps.flatten(1).amax(1)[:, None, None] / 2


def overlap_of(maps: Float[Tensor, "span height width"]) -> Float[Tensor, "span span"]:
    """Intersection over union of each two maps' bright areas (see `bright`): 0 apart, 1 equal.

    Unlike `losses.overlap` it asks where words look, not how much: no gradient, and a weak word counts like
    a strong one.
    """
    areas = bright(maps).flatten(1).float()
    common = areas @ areas.T
    sizes = areas.sum(1)
    return common / (sizes[:, None] + sizes[None, :] - common)


def shares_within(
    attention: Float[Tensor, "token height width"], area: Bool[Tensor, "height width"]
) -> Float[Tensor, "token"]:
    """Mean attention of each token over the cells of an area, 0 to 1."""
    return attention[:, area].mean(1)


def _distribution(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    total = values.sum()
    return values / total if total > 0 else torch.full_like(values, 1 / values.numel())


def _check(maps: Tensor, dimensions: int, wanted: str) -> None:
    if maps.ndim != dimensions or 0 in maps.shape[-2:]:
        raise GridMismatchError(f"wanted maps of shape {wanted}; got {tuple(maps.shape)}")
