"""Attention between the patches in which much is to be seen, against shuffled ones; pure.

A reconstruction: of the "weighted patch interrelation analysis" of arXiv 2211.08543 only the abstract is
public. Formulas, null and bins are ours.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError

NULLS: Final = ("shift", "permutation")
"""What the weights are compared with: themselves shifted and mirrored, or in any order."""


def interrelation(
    attention: Float[Tensor, "image *heads _ _"],
    queries: Float[Tensor, "image patch"],
    keys: Float[Tensor, "image patch"],
) -> Float[Tensor, "image *heads"]:
    """The attention between weighted patches, as a share of all attention between different patches.

    sum_{i != j} u_i v_j A_ij / sum_{i != j} A_ij, with u the weights of the queries and v those of the keys.
    A patch's attention to itself is no relation and is left out.

    Args:
        attention: among patches, at least 0; rows need not sum to 1.

    Raises:
        InputError: shapes that do not fit, or attention that lies on the diagonal alone.
    """
    _check_shapes(attention, queries, keys)
    apart = without_diagonal(attention).to(torch.float64)
    extra = (slice(None),) + (None,) * (attention.ndim - 3)
    weighted = queries.to(apart)[extra][..., None, :] @ apart @ keys.to(apart)[extra][..., None]
    return (weighted[..., 0, 0] / apart.sum((-2, -1))).to(attention.dtype)


def without_diagonal(attention: Float[Tensor, "*heads patch patch"]) -> Float[Tensor, "*heads patch patch"]:
    """Attention between different patches alone.

    Raises:
        InputError: where there is none.
    """
    kept = attention.masked_fill(torch.eye(attention.shape[-1], dtype=torch.bool, device=attention.device), 0)
    if not (kept.sum((-2, -1)) > 0).all():
        raise InputError("some head attends from every patch to itself alone: there are no relations in it")
    return kept


def interrelation_of_orders(
    attention: Float[Tensor, "image *heads patch patch"],
    queries: Float[Tensor, "image patch"],
    keys: Float[Tensor, "image patch"],
    orders: Int[Tensor, "draw image patch"],
) -> Float[Tensor, "draw image *heads"]:
    """`interrelation` with both weights put into each of these orders, an order of its own for each image."""
    _check_shapes(attention, queries, keys)
    apart = without_diagonal(attention)
    shares = apart / apart.sum((-2, -1), keepdim=True)
    flat = shares.flatten(1, -3) if attention.ndim > 3 else shares[:, None]
    found = []
    for image, own in enumerate(flat):
        first, second = (weights[image][orders[:, image]].to(own) for weights in (queries, keys))
        found.append(torch.einsum("di,hij,dj->dh", first, own, second))
    return torch.stack(found, 1).reshape(len(orders), *attention.shape[:-2])


def orders(
    images: int, grid: tuple[int, int], draws: int, *, null: str = "shift", seed: int = 0
) -> Int[Tensor, "draw image patch"]:
    """New orders of the patches, one for each draw and image.

    "permutation" is any order: what remains is how much weight there is. "shift" moves the weights on the
    grid, round its edges, and mirrors them: they stay next to whom they were, so that neighbours which attend
    to each other do not pass for a preference. The order as it was is never drawn by "shift".

    Raises:
        InputError: another null, no draw, or a grid of fewer than two patches.
    """
    count = grid[0] * grid[1]
    if null not in NULLS:
        raise InputError(f"null must be one of {', '.join(NULLS)}; got {null!r}")
    if draws < 1 or count < 2:
        raise InputError(f"wanted at least one draw on at least two patches, got {draws} on {count}")
    random = np.random.default_rng([seed, 0x51F7])
    if null == "permutation":
        drawn = random.random((draws, images, count)).argsort(-1)
    else:
        moves = _moves(grid)
        drawn = moves[random.integers(1, len(moves), (draws, images))]
    return torch.from_numpy(drawn)


def _moves(grid: tuple[int, int]) -> Int[np.ndarray, "move patch"]:
    """All shifts round the edges, mirrored or not, each as an order; the first changes nothing."""
    places = np.arange(grid[0] * grid[1]).reshape(grid)
    mirrors = (places, places[::-1], places[:, ::-1], places[::-1, ::-1])
    found = [
        np.roll(each, (down, across), (0, 1)).ravel()
        for each in mirrors
        for down in range(grid[0])
        for across in range(grid[1])
    ]
    return np.unique(np.stack(found), axis=0)  # sorted, so that the identity is the first


def p_values(
    seen: Float[Tensor, "*heads"], null: Float[Tensor, "draw *heads"]
) -> tuple[Float[Tensor, "*heads"], Float[Tensor, "*heads"], Float[Tensor, "*heads"]]:
    """How unlike the null each head is: z, two-sided p, and p adjusted for looking at all heads.

    z is the distance from the null's mean in its standard deviations. p = (1 + draws with |z| at least as
    large) / (1 + draws); the adjusted one counts draws whose largest |z| of all heads is (the maximum
    statistic of Westfall & Young 1993), so that a chance of 5 % is one for the whole table.
    """
    centre, spread = null.mean(0), null.std(0, correction=0).clamp_min(torch.finfo(null.dtype).tiny)
    z, drawn = (seen - centre) / spread, ((null - centre) / spread).abs()
    slack = 1 + 1e-6  # equal up to rounding is equal
    alone = (drawn * slack >= z.abs()).sum(0)
    largest = drawn.flatten(1).amax(1).reshape(-1, *[1] * (null.ndim - 1))
    together = (largest * slack >= z.abs()).sum(0)
    return z, (1 + alone) / (1 + len(null)), (1 + together) / (1 + len(null))


def query_entropy(
    attention: Float[Tensor, "*heads query key"],
) -> Float[Tensor, "*heads query"]:
    """How spread each query's attention is: -sum A log A / log n, 0 for one key, 1 for all n alike.

    Raises:
        InputError: for rows that do not sum to 1, or a single key.
    """
    count = attention.shape[-1]
    if count < 2 or not ((attention.sum(-1) - 1).abs() < 1e-3).all():
        raise InputError("rows of attention must sum to 1, over at least two patches: see among_patches")
    return -torch.special.xlogy(attention, attention).sum(-1) / math.log(count)


def bins_of(
    count: Float[Tensor, "image patch"], bins: int = 3
) -> tuple[Int[Tensor, "image patch"], tuple[str, ...]]:
    """Patches by their keypoints: none (bin 0), and those with some in up to `bins` about equally large bins.

    Returns:
        The bin of each patch, and what each bin holds.

    Raises:
        InputError: where no patch has a keypoint, or no bin is wanted.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, got {bins}")
    some = count[count > 0]
    if not len(some):
        raise InputError("no patch has a keypoint, so patches cannot be told apart by them")
    edges = np.unique(np.quantile(some.double().cpu().numpy(), np.linspace(0, 1, bins + 1), method="lower"))
    inner = torch.tensor(edges[1:] if len(edges) > 1 else edges, dtype=torch.float64)
    found = torch.where(count > 0, 1 + torch.bucketize(count.double().cpu(), inner, right=False).to(count), 0)
    names = ["0"]
    for place, top in enumerate(inner.tolist()):
        own = count[found == place + 1]
        low, high = float(own.min()), top
        names.append(f"{low:g}" if low == high else f"{low:g} to {high:g}")
    return found.long(), tuple(names)


def by_bin(
    values: Float[Tensor, "image *heads patch"], where: Int[Tensor, "image patch"], bins: int
) -> Float[Tensor, "image *heads {bins}"]:
    """The mean over each image's patches of each bin; NaN where an image has none there."""
    extra = (slice(None),) + (None,) * (values.ndim - 2)
    found = []
    for each in range(bins):
        own = (where == each).to(values)[extra]
        found.append((values * own).sum(-1) / own.sum(-1))
    return torch.stack(found, -1)


def _check_shapes(attention: Tensor, *weights: Tensor) -> None:
    wanted = (attention.shape[0], attention.shape[-1])
    if attention.shape[-2] != attention.shape[-1] or any(tuple(one.shape) != wanted for one in weights):
        raise InputError(
            f"wanted attention (image, ..., patch, patch) and weights (image, patch); got "
            f"{tuple(attention.shape)} and {', '.join(str(tuple(one.shape)) for one in weights)}"
        )
