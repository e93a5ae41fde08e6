"""How losses read attention: softmax over the text, a map a span, a Gaussian over it.

The defaults are the corrected reading; `published=True` with `last=None` and one token a span is the reading
of the authors of Attend-and-Excite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..errors import GridMismatchError, GuidanceError, TokenNotFoundError
from ..maps import AttentionMaps, Grid
from ..tokens import Span

Spans = Sequence[Sequence[Span]]
Last = Sequence[int | Sequence[tuple[int, int]]]


class Reading(TypedDict, total=False):
    """How maps are read before a loss judges them; every loss takes these as keywords.

    last: position of the end token of each image's prompt, or the ranges ((first, end), ...) of its own
        tokens where they do not stand at 1 .. last - 1; the softmax then runs over the prompt's own tokens
        only. None (default): over all positions but the start token and the very last one.
    temperature: factor on the attention before that softmax (default 100); None: no softmax, the attention
        as it is, in which a word competes with the start token too.
    sigma: width of the Gaussian that smooths a map, in cells (default 0.5); None leaves maps as they are.
    kernel_size: the Gaussian's cells a side, odd (default 3).
    published: use the Gaussian that the published code computes, sqrt(2) wider than its sigma says (default
    False).
    grid: (height, width) that the layers are pooled to; None (default) wants them to share one.
    """

    last: Last | None
    temperature: float | None
    sigma: float | None
    kernel_size: int
    published: bool
    grid: Grid | None


def peaks(maps: AttentionMaps, spans: Spans, **reading: Unpack[Reading]) -> list[Float[Tensor, "_span"]]:
    """Return, for each image, the peak max G(A_s) of each of its spans: 0 (unattended) to 1.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    return [image.flatten(1).amax(1) for image in subject_maps(maps, spans, **reading)]


def subject_maps(
    maps: AttentionMaps,
    spans: Spans,
    *,
    last: Last | None = None,
    temperature: float | None = 100.0,
    sigma: float | None = 0.5,
    kernel_size: int = 3,
    published: bool = False,
    grid: Grid | None = None,
) -> list[Float[Tensor, "_span height width"]]:
    """Return, for each image, the smoothed map G(A_s) of each of its spans, in 0..1, in the autograd graph.

    This is the whole reading that the losses share: mean over heads and layers, softmax over the text, sum
    over a span's tokens, smoothing. The keywords are those of `Reading`.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    mean = maps.mean(grid)
    read = mean if temperature is None else normalise_over_text(mean, last, temperature)
    _check_spans(spans, last, mean.shape[0], mean.shape[3])
    return [
        smooth(image, sigma, kernel_size, published=published) if len(image) else image
        for image in word_maps(read, spans)
    ]


def span_attention(
    maps: AttentionMaps, spans: Spans, last: Last | None = None, grid: Grid | None = None
) -> list[Float[Tensor, "_span height width"]]:
    """Return, for each image, how much attention each of its spans gets: the sum over its tokens, 0 to 1.

    Neither a softmax over the text nor smoothing: for losses that look at where a span's attention lies and
    not at how it fares against the other words.

    Raises:
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    mean = maps.mean(grid)
    _check_spans(spans, last, mean.shape[0], mean.shape[3])
    return word_maps(mean, spans)


def distributions(
    maps: Float[Tensor, "*map height width"], floor: float = 1e-3
) -> Float[Tensor, "*map position"]:
    """Each map as a distribution over the n positions of its grid, none of which is quite empty.

    Formula: (1 - floor) A / sum A + floor / n, so that a logarithm is at least log(floor / n) and every
    divergence of two such distributions at most log(n / floor).
    """
    flat = maps.flatten(-2)
    total = flat.sum(-1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    return (1 - floor) * flat / total + floor / flat.shape[-1]


def normalise_over_text(
    mean_maps: Float[Tensor, "batch height width token"],
    last: Last | None = None,
    temperature: float = 100.0,
) -> Float[Tensor, "batch height width token"]:
    """Softmax of the attention over the text's own tokens, at each position of the grid.

    The start token, a sink that holds most of the attention, is left out. With `last` given, image i keeps
    the positions 1 .. last[i] - 1, or those of the ranges last[i], its prompt's own tokens: end token and
    padding are left out too. Without it only the start token and the very last position are left out (the
    published code for Stable Diffusion 1), so that end token and padding compete with the words.

    Formula: softmax over the kept positions of temperature * A. Absolute positions stay; what is left out is
    exactly 0. Values 0..1, each grid position sums to 1 (to 0 for an image whose prompt is empty).

    Raises:
        GuidanceError: `last` does not name one position an image, or one outside the sequence.
    """
    kept = _kept_positions(mean_maps.shape[0], mean_maps.shape[3], last).to(mean_maps.device)
    kept = kept[:, None, None, :]
    floor = torch.finfo(mean_maps.dtype).min  # not -inf: an empty prompt would give NaN, in the gradient too
    return torch.softmax((mean_maps * temperature).masked_fill(~kept, floor), dim=-1) * kept


def word_maps(
    normalised: Float[Tensor, "batch height width token"], spans: Spans
) -> list[Float[Tensor, "_span height width"]]:
    """Return, for each image, one map a span: the sum over the span's tokens, in 0..1 after a softmax."""
    return [
        torch.stack([image[..., list(span.indices)].sum(-1) for span in own])
        if own
        else image.permute(2, 0, 1)[:0]
        for image, own in zip(normalised, spans, strict=True)
    ]


def smooth(
    maps: Float[Tensor, "map height width"],
    sigma: float | None = 0.5,
    kernel_size: int = 3,
    *,
    published: bool = False,
) -> Float[Tensor, "map height width"]:
    """Smooth each map with a Gaussian (`kernel`), its edges reflected so that no attention is lost outside.

    Raises:
        GridMismatchError: the grid is too small to be reflected, each side must exceed kernel_size // 2.
    """
    if sigma is None:
        return maps
    margin = kernel_size // 2
    if min(maps.shape[-2:]) <= margin:
        height, width = maps.shape[-2:]
        raise GridMismatchError(
            f"a {height}x{width} grid is too small to smooth with a kernel of {kernel_size}; "
            "guide layers with a larger grid, or set sigma=None"
        )
    weights = kernel(sigma, kernel_size, published=published).to(maps)
    padded = functional.pad(maps[:, None], (margin,) * 4, mode="reflect")
    return functional.conv2d(padded, weights[None, None])[:, 0]


def kernel(sigma: float, size: int = 3, published: bool = False) -> Float[Tensor, "size size"]:
    """Return a Gaussian of `size` x `size` cells that sums to 1, float64.

    Formula: exp(-x^2 / (2 sigma^2)) along each axis, x in cells from the middle. With `published=True` it is
    exp(-(x / (2 sigma))^2), as in the code of Attend-and-Excite and of what was derived from it: a
    Gaussian of sigma * sqrt(2).

    Raises:
        GuidanceError: sigma not above 0, or a size that has no middle cell.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise GuidanceError(f"sigma is a width in cells, above 0; got {sigma}")
    if size < 1 or size % 2 == 0:
        raise GuidanceError(f"kernel_size is an odd number of cells, such as 3; got {size}")
    width = sigma * math.sqrt(2) if published else sigma
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    profile = torch.exp(-((offsets / width) ** 2) / 2)
    weights = torch.outer(profile, profile)
    return weights / weights.sum()


def own_positions(last: Last | None, batch: int, tokens: int) -> list[tuple[int, ...]]:
    """The positions of each image's text that losses read, as `last` says (see `Reading`).

    Raises:
        GuidanceError: `last` does not say it for each image, or names positions outside the sequence.
    """
    ends = [tokens - 1] * batch if last is None else list(last)
    ranges = [tuple(end) if isinstance(end, Sequence) else ((1, int(end)),) for end in ends]
    if len(ends) != batch or any(not 0 <= first <= end <= tokens for own in ranges for first, end in own):
        raise GuidanceError(
            f"last names the end token's position of each image, within 1..{tokens} for {tokens} tokens, or "
            f"ranges (first, end) of its own tokens; got {ends} for {batch} image{'s'[: batch != 1]}"
        )
    return [tuple(index for first, end in own for index in range(first, end)) for own in ranges]


def _kept_positions(batch: int, tokens: int, last: Last | None) -> Tensor:
    kept = torch.zeros(batch, tokens, dtype=torch.bool)
    for image, own in enumerate(own_positions(last, batch, tokens)):
        kept[image, list(own)] = True
    return kept


def _check_spans(spans: Spans, last: Last | None, batch: int, tokens: int) -> None:
    if len(spans) != batch:
        raise GuidanceError(f"wanted one sequence of spans an image, {batch} in all; got {len(spans)}")
    for image, (own, read) in enumerate(zip(spans, own_positions(last, batch, tokens), strict=True)):
        for span in own:
            if not span.indices or not set(span.indices) <= set(read):
                raise TokenNotFoundError(
                    f"{span.label!r} of image {image} stands at the token positions {list(span.indices)}; "
                    f"the maps are read at {_listed(read)}"
                )


def _listed(positions: Sequence[int]) -> str:
    """Positions as runs, such as 1..5, 77..81."""
    firsts = [index for index in positions if index - 1 not in positions]
    ends = [index for index in positions if index + 1 not in positions]
    return ", ".join(f"{first}..{end}" for first, end in zip(firsts, ends, strict=True)) or "none"
