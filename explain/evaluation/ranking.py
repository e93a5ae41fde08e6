"""Ranks of relevance: which piece goes first, and how far two rankings agree; ties favour no place."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError


def flat(
    values: Float[Tensor, "row *place"], movable: Bool[Tensor, "row piece"]
) -> Float[Tensor, "row piece"]:
    """Maps as one value a piece, rows of a grid first, where `movable` is.

    Raises:
        InputError: maps of another size, or values that are not finite.
    """
    found = values.flatten(1).to(movable.device)
    if found.shape != movable.shape:
        raise InputError(
            f"the maps have shape {tuple(values.shape)}, but the inputs have {movable.shape[1]} pieces in "
            f"each of {len(movable)} rows"
        )
    if not found.isfinite().all():
        raise InputError("the maps hold NaN or infinite values")
    return found


def ranks(
    values: Float[Tensor, "row piece"], movable: Bool[Tensor, "row piece"], seed: int = 0
) -> Int[Tensor, "row piece"]:
    """0 for the most relevant piece of a row, and so on; what is not movable comes last.

    Ties are broken by one random order of the pieces, the same in every row: a map that is constant removes
    pieces at random, and does not begin in the upper left corner.
    """
    count = values.shape[1]
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(values.device)
    held = values.masked_fill(~movable, -torch.inf)[:, shuffled]
    order = shuffled[held.argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(count, device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def most(
    values: Float[Tensor, "row piece"], movable: Bool[Tensor, "row piece"], share: float, seed: int = 0
) -> Bool[Tensor, "row piece"]:
    """The most relevant share of each row's movable pieces, rounded to whole pieces."""
    return ranks(values, movable, seed) < whole(share, movable)[:, None]


def whole(share: float, movable: Bool[Tensor, "row piece"]) -> Int[Tensor, "row"]:
    """How many pieces a share of each row's movable ones is; halves are rounded up."""
    return (movable.sum(1).double() * share + 0.5 + 1e-9).long()


def spearman(
    values: Float[Tensor, "row piece"], others: Float[Tensor, "row piece"], movable: Bool[Tensor, "row piece"]
) -> Float[Tensor, "row"]:
    """Spearman's rank correlation over each row's movable pieces, ties sharing their mean rank.

    NaN where a row has fewer than three, or either side is constant.
    """
    from scipy.stats import rankdata

    found = torch.full((len(values),), torch.nan)
    both = varies(values, movable) & varies(others, movable) & (movable.sum(1) >= 3)
    for row in both.nonzero()[:, 0].tolist():
        first, second = (rankdata(side[row, movable[row]].cpu().numpy()) for side in (values, others))
        found[row] = float(np.corrcoef(first, second)[0, 1])
    return found


def varies(values: Float[Tensor, "row piece"], movable: Bool[Tensor, "row piece"]) -> Bool[Tensor, "row"]:
    """Whether a row's movable pieces differ at all."""
    low = values.masked_fill(~movable, torch.inf).amin(1)
    return low < values.masked_fill(~movable, -torch.inf).amax(1)


def common(
    values: Float[Tensor, "row piece"], others: Float[Tensor, "row piece"],
    movable: Bool[Tensor, "row piece"], share: float,
) -> Float[Tensor, "row"]:  # fmt: skip
    """Which part of the most relevant share (at least one piece) two maps have in common, 0..1.

    Each side breaks its ties by another order, so that two constant maps agree by chance only. NaN without a
    movable piece.
    """
    size = whole(share, movable).clamp_min(1)[:, None]
    both = (ranks(values, movable, 0) < size) & (ranks(others, movable, 1) < size) & movable
    found = both.sum(1) / size[:, 0]
    return torch.where(movable.any(1), found, torch.nan).float().cpu()
