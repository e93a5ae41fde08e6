"""Where in the image a word is wanted: boxes and masks, on whatever grid the attention has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from .errors import GuidanceError
from .maps import Grid

_ROUNDING = 1e-9  # (0.5 - 0.4) * 5 is 0.49999999999999994


@dataclass(frozen=True)
class Box:
    """A box in shares of the image's width (left, right) and height (top, bottom), from the upper left.

    Raises:
        GuidanceError: not 0 <= left < right <= 1 and 0 <= top < bottom <= 1.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise GuidanceError(
                "a box is (left, top, right, bottom) in shares of the image, 0 to 1, left before right and "
                f"top before bottom; got ({self.left}, {self.top}, {self.right}, {self.bottom})"
            )


Region = Box | Tensor
"""A box, or a mask (height, width) of any size, 0 outside and 1 inside."""


def region(given: Any) -> Region:
    """A box from four numbers, a mask from a tensor; what is either already is returned as it is.

    Raises:
        GuidanceError: neither four numbers nor a mask (height, width) with values of 0 to 1, not all 0.
    """
    if isinstance(given, Box):
        return given
    if isinstance(given, Tensor):
        return _mask(given)
    if isinstance(given, Sequence) and len(given) == 4 and all(isinstance(n, int | float) for n in given):
        return Box(*map(float, given))
    raise GuidanceError(
        f"a box is (left, top, right, bottom), a mask a tensor (height, width); got {given!r}"
    )


def coverage(region: Region, grid: Grid) -> Float[Tensor, "height width"]:
    """How much of each cell of the grid lies in the region, 0 to 1, by area."""
    if isinstance(region, Tensor):
        return functional.interpolate(region[None, None], size=tuple(grid), mode="area")[0, 0]
    rows, columns = grid
    return torch.outer(_share(region.top, region.bottom, rows), _share(region.left, region.right, columns))


def cells(region: Region, grid: Grid) -> Bool[Tensor, "height width"]:
    """The cells of which at least a half lies in the region; where there is none, those with most of it."""
    covered = coverage(region, grid)
    return covered >= min(0.5, float(covered.max())) - _ROUNDING


def _share(start: float, end: float, size: int) -> Float[Tensor, "size"]:
    edges = torch.arange(size + 1, dtype=torch.float64) / size
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0) * size).clamp(max=1)


def _mask(given: Tensor) -> Tensor:
    mask = given.detach().to(torch.float64)
    if mask.ndim != 2 or not mask.numel() or not (mask.min() >= 0 and mask.max() <= 1 and mask.any()):
        raise GuidanceError(
            "a mask is (height, width), 0 outside and 1 inside, and not empty; got the shape "
            f"{tuple(given.shape)}"
        )
    return mask
