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
    span gets a gradient at once. Range 0 (every span fully attended to) to 1; 0 for an image without spans.
    Images do not influence each other.

    Raises:
        TokenNotFoundError: a span outside the text that is read.
        GridMismatchError: layers of different grids and no `grid`, or a grid too small for the kernel.
    """
    if reduction not in ("max", "mean"):
        raise GuidanceError(f'reduction is "max" or "mean"; got {reduction!r}')
    worst = torch.amax if reduction == "max" else torch.mean
    shortfalls = [functional.relu(1 - peak) for peak in peaks(maps, spans, **reading)]
    return torch.stack([worst(short, dim=0) if len(short) else short.sum() for short in shortfalls])
