"""Overlap and retention: words attend to different places, and stay where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from ..maps import AttentionMaps
from .needs import needs
from .reading import Reading, Spans, subject_maps


@needs("pairs", "last")
def overlap(maps: AttentionMaps, spans: Spans, **reading: Unpack[Reading]) -> Float[Tensor, "batch"]:
    """A-STAR's segregation loss: how much the spans of an image attend to the same places.

    Source: Agarwal et al., "A-STAR" (ICCV 2023), L_seg; here the mean over pairs instead of their sum, so
    that its size does not grow with the number of spans.
    Formula: mean over pairs (m, n) of sum_p min(G(A_m), G(A_n)) / sum_p (G(A_m) + G(A_n)), p over positions.
    Range 0 (no common place) to 0.5 (equal maps); 0 for an image with fewer than two spans.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    read = subject_maps(maps, spans, **reading)
    return torch.stack([mean_over_pairs(image.flatten(1), shared) for image in read])


@needs("pairs", "last")
def intersection_over_union(
    maps: AttentionMaps, spans: Spans, **reading: Unpack[Reading]
) -> Float[Tensor, "batch"]:
    """Soft intersection over union of the spans' maps: `overlap` with the union in the denominator.

    Source: the overlap losses compared in arXiv 2410.20972, of which this kind did best on missing
    subjects; soft sets by minimum and maximum.
    Formula: mean over pairs (m, n) of sum_p min(G(A_m), G(A_n)) / sum_p max(G(A_m), G(A_n)). Range 0 (no
    common place) to 1 (equal maps); 0 for an image with fewer than two spans.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    read = subject_maps(maps, spans, **reading)
    return torch.stack([mean_over_pairs(image.flatten(1), _iou) for image in read])


@needs("last", "previous")
def retention(
    maps: AttentionMaps,
    spans: Spans,
    *,
    previous: Sequence[Float[Tensor, "_span height width"]] | None,
    **reading: Unpack[Reading],
) -> Float[Tensor, "batch"]:
    """A-STAR's retention loss: a span should attend to where it attended at the step before.

    Source: Agarwal et al., "A-STAR" (ICCV 2023), L_ret; here the mean over spans, and twice the common part,
    so that what was kept costs nothing. Where a span attended is where its map was at least half its peak.
    Formula: mean over spans of 1 - 2 sum_p min(G(A_s), B_s) / sum_p (G(A_s) + B_s), B_s = 1 where previous_s
    >= max(previous_s) / 2, else 0. Range 0 (kept) to 1 (gone); 0 at the first step (`previous` None), and
    for an image without spans.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    read = subject_maps(maps, spans, **reading)
    before = [image[:0] for image in read] if previous is None else previous
    return torch.stack([_lost(image, own) for image, own in zip(read, before, strict=True)])


def mean_over_pairs(
    rows: Float[Tensor, "_span position"],
    likeness: Callable[[Tensor, Tensor], Float[Tensor, ""]],
) -> Float[Tensor, ""]:
    """The mean of `likeness` over all pairs of rows; 0, in the graph, where there is no pair."""
    if len(rows) < 2:
        return rows[:0].sum()
    return torch.stack([likeness(a, b) for a, b in combinations(rows, 2)]).mean()


def shared(a: Float[Tensor, "position"], b: Float[Tensor, "position"]) -> Float[Tensor, ""]:
    """sum min(a, b) / sum (a + b), 0 to 0.5."""
    return torch.minimum(a, b).sum() / (a + b).sum().clamp_min(torch.finfo(a.dtype).tiny)


def _iou(a: Float[Tensor, "position"], b: Float[Tensor, "position"]) -> Float[Tensor, ""]:
    return torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp_min(torch.finfo(a.dtype).tiny)


def _lost(
    image: Float[Tensor, "_span height width"], before: Float[Tensor, "_before rows columns"]
) -> Float[Tensor, ""]:
    if not len(before) or not len(image):
        return image[:0].sum()
    then = before.detach().to(image).flatten(1)
    where = (then >= then.amax(1, keepdim=True) / 2).to(image)
    kept = [2 * shared(now, there) for now, there in zip(image.flatten(1), where, strict=True)]
    return 1 - torch.stack(kept).mean()
