"""Attend-and-Excite: no word neglected."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..errors import GuidanceError
from ..maps import AttentionMaps
from .needs import needs
from .reading import Reading, Spans, peaks

_LEAST_PEAK = 1e-4


@needs("last")
def attend_and_excite(
    maps: AttentionMaps,
    spans: Spans,
    *,
    reduction: str = "max",
    **reading: Unpack[Reading],
) -> Float[Tensor, "batch"]:
    """Attend-and-Excite's loss: how far the most neglected span is from being attended to somewhere.

    Source: Chefer et al., "Attend-and-Excite" (SIGGRAPH 2023), Algorithm 1 and its code.
    Formula: L = max over spans s of relu(1 - max over positions of G(A_s)), where A_s is the span's part of
    the softmax over the text (`normalise_over_text`, `word_maps`) and G smooths it (`smooth`). With
    `reduction="mean"` the mean over the spans takes the place of their maximum, so that each unsatisfied
    span gets a gradient at once; range 0 (every span fully attended to) to 1. With `reduction="log"` it is
    the mean over the spans of -log max G(A_s), peaks below 1e-4 counting as that much: each span pulls in
    proportion to how far it is neglected; range 0 to 9.3. 0 for an image without spans. Images do not
    influence each other.

    Raises:
        TokenNotFoundError: a span outside the text that is read.
        GridMismatchError: layers of different grids and no `grid`, or a grid too small for the kernel.
    """
    if reduction not in ("max", "mean", "log"):
        raise GuidanceError(f'reduction is "max", "mean" or "log"; got {reduction!r}')
    worst = torch.amax if reduction == "max" else torch.mean
    found = peaks(maps, spans, **reading)
    short = [_surprise(peak) if reduction == "log" else functional.relu(1 - peak) for peak in found]
    return torch.stack([worst(own, dim=0) if len(own) else own.sum() for own in short])


def _surprise(peaks: Float[Tensor, "span"]) -> Float[Tensor, "span"]:
    return -peaks.clamp(min=_LEAST_PEAK, max=1.0).log()
