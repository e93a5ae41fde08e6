"""SynGen: modifiers lie where their noun lies, and apart from all other words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..groups import Group
from ..maps import AttentionMaps, Grid
from ..tokens import Span
from .needs import needs
from .reading import Last, Spans, distributions, own_positions, span_attention


@needs("last", "groups")
def symmetric_kl_binding(
    maps: AttentionMaps,
    spans: Spans,
    *,
    groups: Sequence[Sequence[Group]],
    last: Last | None = None,
    grid: Grid | None = None,
    floor: float = 1e-3,
) -> Float[Tensor, "batch"]:
    """SynGen's loss: a modifier's attention should be its noun's, and unlike that of every other word.

    Source: Rassin et al., "Linguistic Binding in Diffusion Models: Enhancing Attribute Correspondence through
    Attention Map Alignment" (NeurIPS 2023), L_pos + L_neg; here the mean over pairs instead of their sum, and
    the tokens of a word are added up instead of compared one by one.
    Formula: mean over pairs (m, n) of a modifier and its noun of D(P_m, P_n) - mean over u of (D(P_m, P_u) +
    D(P_u, P_n)) / 2, where u are the tokens of the prompt (start token apart) outside the group, P =
    `distributions`(A, floor) of the attention as it is (no softmax over the text, no smoothing) and D(P, Q)
    = (KL(P, Q) + KL(Q, P)) / 2 in nats. Range -b to b, b = log(n / floor) for n positions of the grid; 0 for
    an image without groups.

    Raises:
        TokenNotFoundError: a group outside the text that is read.
        GridMismatchError: layers of different grids and no `grid`.
    """
    texts = own_positions(last, maps.batch, maps.tokens)
    words = [_words(own, text) for own, text in zip(groups, texts, strict=True)]
    read = span_attention(maps, words, last, grid)
    return torch.stack(
        [_unbound(image, own, text, floor) for image, own, text in zip(read, groups, texts, strict=True)]
    )


def _words(groups: Sequence[Group], text: Sequence[int]) -> list[Span]:
    """Each group's noun and modifiers, then every token of the prompt by itself."""
    named = [span for group in groups for span in (group.noun, *group.modifiers)]
    return [*named, *(Span(f"token {index}", (index,)) for index in text)] if named else []


def _unbound(
    image: Float[Tensor, "_word height width"], groups: Sequence[Group], text: Sequence[int], floor: float
) -> Float[Tensor, ""]:
    if not groups:
        return image.sum() * 0
    spread = distributions(image, floor)
    tokens = spread[sum(1 + len(group.modifiers) for group in groups) :]
    losses, start = [], 0
    for group in groups:
        noun, *modifiers = spread[start : start + 1 + len(group.modifiers)]
        others = tokens[[index not in group.indices for index in text]]
        losses += [_divergence(m, noun) - _apart(m, noun, others) for m in modifiers]
        start += 1 + len(group.modifiers)
    return torch.stack(losses).mean()


def _apart(
    modifier: Float[Tensor, "position"],
    noun: Float[Tensor, "position"],
    others: Float[Tensor, "_token position"],
) -> Float[Tensor, ""]:
    if not len(others):
        return noun.sum() * 0
    return ((_divergence(modifier, others) + _divergence(noun, others)) / 2).mean()


def _divergence(p: Float[Tensor, "*p position"], q: Float[Tensor, "*q position"]) -> Float[Tensor, "*r"]:
    return ((p - q) * (p.log() - q.log())).sum(-1) / 2
