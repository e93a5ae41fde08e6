"""How far patches look: mean distance of attention in pixels, its entropy, its share on patches; pure."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError


def among_patches(
    attention: Float[Tensor, "*heads query key"], patches: slice
) -> Float[Tensor, "*heads patch patch"]:
    """The attention from patches to patches, each row divided by its sum: special tokens take no part.

    A_ij / sum over patches k of A_ik, for patches i and j. Without the division a row's distances shrink by
    whatever [CLS] and registers hold, and layers with large registers look local.

    Raises:
        InputError: for patches that are not there, or a row that attends to no patch at all.
    """
    count = attention.shape[-1]
    if attention.ndim < 2 or attention.shape[-2] != count or not 0 <= patches.start < patches.stop <= count:
        raise InputError(
            f"wanted self-attention (..., token, token) that holds tokens {patches.start} to "
            f"{patches.stop - 1}; got shape {tuple(attention.shape)}"
        )
    kept = attention[..., patches, patches]
    sums = kept.sum(-1, keepdim=True)
    if not (sums > 0).all():
        raise InputError(
            f"{int((sums <= 0).sum())} of {sums.numel()} rows attend to special tokens alone: of these there "
            "is no distance among patches"
        )
    return kept / sums


def share_on_patches(attention: Float[Tensor, "*heads query key"], patches: slice) -> Float[Tensor, "*heads"]:
    """How much of the patches' attention goes to patches, 0 to 1; the rest goes to special tokens."""
    return attention[..., patches, patches].sum(-1).mean(-1)


def pixel_distances(
    grid: tuple[int, int], patch: tuple[float, float], like: Tensor | None = None
) -> Float[Tensor, "patch patch"]:
    """The Euclidean distance in pixels between the centres of every two patches, row by row.

    Args:
        grid: patches (height, width).
        patch: pixels (height, width) of one.
        like: a tensor whose device and type are taken.

    Raises:
        InputError: for a grid or a patch of nothing.
    """
    if min(grid) < 1 or min(patch) <= 0:
        raise InputError(f"grid and patch are (height, width), both positive; got {grid} and {patch}")
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float64) * patch[0],
        torch.arange(grid[1], dtype=torch.float64) * patch[1],
        indexing="ij",
    )
    centres = torch.stack([rows.flatten(), columns.flatten()], 1)
    found = torch.linalg.vector_norm(centres[:, None] - centres[None], dim=-1)
    return found.to(torch.get_default_dtype() if like is None else like.dtype).to(
        "cpu" if like is None else like.device
    )


def attention_distance(
    attention: Float[Tensor, "*heads patch patch"], grid: tuple[int, int], patch: tuple[float, float]
) -> Float[Tensor, "*heads"]:
    """The mean distance of attention in pixels (Raghu et al. 2021, arXiv 2108.08810, Sec. 4).

    The mean over query patches i of sum over patches j of A_ij d_ij, with d of `pixel_distances`; 0 where
    every patch looks at itself, `uniform_distance` where it looks everywhere alike.

    Args:
        attention: among patches alone, rows sum to 1 (`among_patches`).
        grid: patches (height, width); need not be square.
        patch: pixels (height, width) of one; need not be square.

    Raises:
        InputError: where grid and attention do not fit, or rows do not sum to 1.
    """
    count = grid[0] * grid[1]
    if attention.shape[-2:] != (count, count):
        raise InputError(
            f"a grid of {grid[0]} x {grid[1]} has {count} patches, got attention {tuple(attention.shape)}; "
            "take the special tokens out by among_patches"
        )
    _check_rows(attention)
    return (attention * pixel_distances(grid, patch, attention)).sum(-1).mean(-1)


def uniform_distance(grid: tuple[int, int], patch: tuple[float, float]) -> float:
    """The distance of attention that is the same everywhere: the mean over all pairs, a patch with itself."""
    return float(pixel_distances(grid, patch, torch.empty(0, dtype=torch.float64)).mean())


def entropy(attention: Float[Tensor, "*heads query key"]) -> Float[Tensor, "*heads"]:
    """The mean over queries of -sum A log2 A in bits: 0 for one key, log2(keys) where all are alike.

    Raises:
        InputError: for rows that do not sum to 1.
    """
    _check_rows(attention)
    return -torch.special.xlogy(attention, attention).sum(-1).mean(-1) / math.log(2)


def _check_rows(attention: Float[Tensor, "*heads query key"]) -> None:
    sums = attention.sum(-1)
    if not ((sums - 1).abs() < 1e-3).all():
        raise InputError(
            f"rows of attention must sum to 1, got {float(sums.min()):.4f} to {float(sums.max()):.4f}: "
            "divide by their sums, as among_patches does"
        )
