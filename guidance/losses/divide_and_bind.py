"""Divide & Bind: attention that has contours, and modifiers that lie where their noun lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from ..groups import Group
from ..maps import AttentionMaps
from .needs import needs
from .reading import Reading, Spans, distributions, subject_maps


@needs("last")
def total_variation(maps: AttentionMaps, spans: Spans, **reading: Unpack[Reading]) -> Float[Tensor, "batch"]:
    """Divide & Bind's attendance loss: the span whose map has the least contours should have more.

    Source: Li et al., "Divide & Bind Your Attention for Improved Generative Semantic Nursing" (BMVC 2023),
    L_attend; here divided by height + width, so that a contour counts the same on every grid.
    Formula: L = -min over spans s of TV(G(A_s)) / (height + width), TV(A) = sum of |A_p - A_q| over
    neighbours p, q, above or beside each other. Range: 0 (a flat map) down to -2 height width / (height +
    width), a chequerboard; one object of sharp contour has about -1. 0 for an image without spans.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    return torch.stack([_least_variation(image) for image in subject_maps(maps, spans, **reading)])


@needs("last", "groups")
def jensen_shannon_binding(
    maps: AttentionMaps,
    spans: Spans,
    *,
    groups: Sequence[Sequence[Group]],
    **reading: Unpack[Reading],
) -> Float[Tensor, "batch"]:
    """Divide & Bind's binding loss: a noun and its modifiers should attend to the same places.

    Source: Li et al. (BMVC 2023), L_bind; here the mean over all pairs of noun and modifier, of maps read as
    for the other losses.
    Formula: mean over pairs of JSD(P_noun, P_modifier), P = `distributions`(G(A)), JSD(P, Q) = (KL(P, M) +
    KL(Q, M)) / 2 in bits, M = (P + Q) / 2. Range 0 (the same places) to 1 (no common place); 0 for an image
    without groups.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    words = [[span for group in own for span in (group.noun, *group.modifiers)] for own in groups]
    read = subject_maps(maps, words, **reading)
    return torch.stack([_unbound(image, own) for image, own in zip(read, groups, strict=True)])


def _least_variation(image: Float[Tensor, "_span height width"]) -> Float[Tensor, ""]:
    if not len(image):
        return image.sum()
    down, across = image.diff(dim=1).abs().sum((1, 2)), image.diff(dim=2).abs().sum((1, 2))
    return -(down + across).amin() / (image.shape[1] + image.shape[2])


def _unbound(image: Float[Tensor, "_word height width"], groups: Sequence[Group]) -> Float[Tensor, ""]:
    divergences, start = [], 0
    for group in groups:
        noun, *modifiers = distributions(image[start : start + 1 + len(group.modifiers)])
        divergences += [_jensen_shannon(noun, modifier) for modifier in modifiers]
        start += 1 + len(group.modifiers)
    return torch.stack(divergences).mean() if divergences else image.sum() * 0


def _jensen_shannon(p: Float[Tensor, "position"], q: Float[Tensor, "position"]) -> Float[Tensor, ""]:
    middle = ((p + q) / 2).log2()
    return ((p * (p.log2() - middle)).sum() + (q * (q.log2() - middle)).sum()) / 2
