"""How much attention a word gets where it gets most of it, as it is."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import GuidanceError
from ..maps import AttentionMaps, Grid
from .needs import needs
from .reading import Last, Spans, span_attention

_LEAST = 1e-4


@needs("last")
def attention_peak(
    maps: AttentionMaps,
    spans: Spans,
    *,
    last: Last | None = None,
    share: float = 1 / 16,
    reduction: str = "mean",
    grid: Grid | None = None,
) -> Float[Tensor, "batch"]:
    """How little attention the spans get where they get most of it, without a softmax over the text.

    Source: this project. Attend-and-Excite's softmax over the text (temperature 100) saturates: it takes a
    word for attended where it gets a little more than the others, although all of them get next to nothing.
    On the embedded model the attention as it is tells far better whether a subject will be drawn
    (docs/losses.md).
    Formula: L = mean over spans s of -log p_s, p_s the mean of the k greatest cells of A_s, the sum of the
    attention to the span's tokens (mean over heads and layers), k = `share` of all cells, rounded up; p_s
    below 1e-4 counts as that much. With `reduction="max"` the maximum over the spans takes the place of their
    mean. Range 0 (every span gets all the attention there is) to 9.3, in nats; 0 for an image without spans.
    Images do not influence each other.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
        GuidanceError: a share that is none, or another reduction.
    """
    if reduction not in ("max", "mean"):
        raise GuidanceError(f'reduction is "max" or "mean"; got {reduction!r}')
    if not 0 < share <= 1:
        raise GuidanceError(f"share is a part of the cells, above 0 and at most 1; got {share}")
    worst = torch.amax if reduction == "max" else torch.mean
    found = [_surprise(image, share) for image in span_attention(maps, spans, last, grid)]
    return torch.stack([worst(own, dim=0) if len(own) else own.sum() for own in found])


def highest(image: Float[Tensor, "span height width"], share: float = 1 / 16) -> Float[Tensor, "span"]:
    """p_s of `attention_peak`: the mean of the highest cells of each span's map, a `share` of all, 0 to 1."""
    cells = image.flatten(1)
    return cells.topk(math.ceil(share * cells.shape[1]), dim=1).values.mean(1)


def _surprise(image: Float[Tensor, "span height width"], share: float) -> Float[Tensor, "span"]:
    return -highest(image, share).clamp(min=_LEAST, max=1.0).log()
