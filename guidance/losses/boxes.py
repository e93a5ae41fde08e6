"""Boxes and masks: words attend to where they are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import GuidanceError
from ..maps import AttentionMaps, Grid
from ..regions import Region, cells, coverage
from .needs import needs
from .reading import Last, Reading, Spans, span_attention, subject_maps

Boxes = Sequence[Sequence[Region | None]]
"""For each image and span the box or mask it is wanted in; None for anywhere."""


@needs("last", "boxes")
def inner_box(
    maps: AttentionMaps, spans: Spans, *, boxes: Boxes, share: float = 0.2, **reading: Unpack[Reading]
) -> Float[Tensor, "batch"]:
    """BoxDiff's inner-box constraint: a word should be strongly attended to inside its box.

    Source: Xie et al., "BoxDiff: Text-to-Image Synthesis with Training-Free Box-Constrained Diffusion" (ICCV
    2023), L_IB; here the mean over spans instead of their sum.
    Formula: mean over spans with a box of 1 - mean of the k greatest values of G(A_s) inside, k = `share`
    (0 to 1) of the box's cells, rounded up. Range 0 to 1; 0 for an image without boxes.

    Raises:
        GuidanceError: a share that is not above 0 and at most 1, or not one box or None a span.
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    _check_share(share)
    read = subject_maps(maps, spans, **reading)
    return _mean(read, boxes, lambda a, box: 1 - _top(a, _inside(a, box), share))


@needs("last", "boxes")
def outer_box(
    maps: AttentionMaps, spans: Spans, *, boxes: Boxes, share: float = 0.2, **reading: Unpack[Reading]
) -> Float[Tensor, "batch"]:
    """BoxDiff's outer-box constraint: a word should not be attended to outside its box.

    Source: Xie et al. (ICCV 2023), L_OB; here the mean over spans instead of their sum.
    Formula: mean over spans with a box of the mean of the k greatest values of G(A_s) outside, k = `share`
    of the cells there, rounded up; 0 for a box that leaves none. Range 0 to 1; 0 for an image without boxes.

    Raises:
        as in `inner_box`.
    """
    _check_share(share)
    read = subject_maps(maps, spans, **reading)
    return _mean(read, boxes, lambda a, box: _top(a, ~_inside(a, box), share))


@needs("last", "boxes")
def box_corners(
    maps: AttentionMaps, spans: Spans, *, boxes: Boxes, reach: int = 1, **reading: Unpack[Reading]
) -> Float[Tensor, "batch"]:
    """BoxDiff's corner constraint: a word's attention should begin and end where its box does.

    Source: Xie et al. (ICCV 2023), L_CC; here the mean over both axes and over spans instead of sums.
    Formula: mean over spans with a box, and over both axes, of the mean of |max over the other axis of
    G(A_s) - the same of the box (1 inside, 0 outside)|, over the cells of the axis that are at most `reach`
    from an edge of the box. Range 0 to 1; 0 for an image without boxes.

    Raises:
        GuidanceError: a reach below 1, or not one box or None a span.
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    if reach < 1:
        raise GuidanceError(f"reach is a number of cells, at least 1; got {reach}")
    read = subject_maps(maps, spans, **reading)
    return _mean(read, boxes, lambda a, box: _corners(a, _inside(a, box), reach))


@needs("last", "boxes")
def layout_energy(
    maps: AttentionMaps,
    spans: Spans,
    *,
    boxes: Boxes,
    last: Last | None = None,
    grid: Grid | None = None,
) -> Float[Tensor, "batch"]:
    """The energy of layout guidance: all of a word's attention should lie in its box.

    Source: Chen et al., "Training-Free Layout Control with Cross-Attention Guidance" (WACV 2024), backward
    guidance; here the mean over spans, and layers are averaged before instead of after.
    Formula: mean over spans with a box of (1 - sum_p M A_s / sum_p A_s)^2, A_s the span's attention as it is
    (no softmax over the text, no smoothing), M how much of each cell lies in the box. Range 0 to 1; 0 for an
    image without boxes.

    Raises:
        GuidanceError: not one box or None a span.
        TokenNotFoundError: a span outside the text that is read.
        GridMismatchError: layers of different grids and no `grid`.
    """
    return _mean(span_attention(maps, spans, last, grid), boxes, _energy)


def _mean(
    read: Sequence[Float[Tensor, "_span height width"]],
    boxes: Boxes,
    cost: Callable[[Tensor, Region], Float[Tensor, ""]],
) -> Float[Tensor, "batch"]:
    if [len(image) for image in read] != [len(own) for own in boxes]:
        raise GuidanceError(
            f"wanted a box or None for each span, {[len(image) for image in read]} an image; got "
            f"{[len(own) for own in boxes]}"
        )
    costs = [
        [cost(a, box) for a, box in zip(image, own, strict=True) if box is not None]
        for image, own in zip(read, boxes, strict=True)
    ]
    return torch.stack(
        [torch.stack(own).mean() if own else image.sum() * 0 for image, own in zip(read, costs, strict=True)]
    )


def _inside(a: Float[Tensor, "height width"], box: Region) -> Bool[Tensor, "height width"]:
    height, width = a.shape
    return cells(box, (height, width)).to(a.device)


def _top(
    a: Float[Tensor, "height width"], where: Bool[Tensor, "height width"], share: float
) -> Float[Tensor, ""]:
    values = a[where]
    return values.topk(math.ceil(share * len(values))).values.mean() if len(values) else a.sum() * 0


def _corners(
    a: Float[Tensor, "height width"], inside: Bool[Tensor, "height width"], reach: int
) -> Float[Tensor, ""]:
    gaps = []
    for axis in (0, 1):
        wanted = inside.any(axis)
        at = torch.arange(len(wanted), device=a.device)
        edges = at[1:][wanted.diff()]  # the first cell after each edge of the box
        near = ((at[:, None] >= edges - reach) & (at[:, None] < edges + reach)).any(1)
        gap = (a.amax(axis) - wanted.to(a)).abs()[near]
        gaps.append(gap.mean() if len(gap) else a.sum() * 0)
    return torch.stack(gaps).mean()


def _energy(a: Float[Tensor, "height width"], box: Region) -> Float[Tensor, ""]:
    height, width = a.shape
    inside = (a * coverage(box, (height, width)).to(a)).sum()
    return (1 - inside / a.sum().clamp_min(torch.finfo(a.dtype).tiny)).square()


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise GuidanceError(f"share is a part of the cells, above 0 and at most 1; got {share}")
