"""CONFORM: the maps of one object attract each other, those of different objects repel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..errors import GuidanceError
from ..groups import Group
from ..maps import AttentionMaps
from ..tokens import Span
from .needs import needs
from .reading import Reading, Spans, subject_maps


@needs("last", "pairs", optional=("groups", "previous"))
def nt_xent(
    maps: AttentionMaps,
    spans: Spans,
    *,
    groups: Sequence[Sequence[Group]] | None = None,
    previous: Sequence[Float[Tensor, "_span height width"]] | None = None,
    tau: float = 0.5,
    **reading: Unpack[Reading],
) -> Float[Tensor, "batch"]:
    """CONFORM's contrastive loss: an object's maps should be like each other and unlike other objects'.

    Source: Meral et al., "CONFORM: Contrast Is All You Need for High-Fidelity Text-to-Image Diffusion Models"
    (CVPR 2024), InfoNCE of NT-Xent's form.
    Formula: mean over positive pairs (i, j) of -log(e_ij / (e_ij + sum over negatives n of e_in)), e_ij =
    exp(cos(x_i, x_j) / tau). The x are flattened maps G(A). A class is a span: the map of its noun and those
    of its modifiers where it has a group, else its own map, and its map at the step before (`previous`,
    without gradient). Positives are of one class, negatives of different ones. A map that is alone in its
    class is its own positive, so that words are set apart from the first step on. Range log(1 + k
    exp(-1/tau)) to log(1 + k exp(1/tau)) for k negatives each, in nats; 0 for an image with fewer than two
    classes.

    Args:
        maps, spans, **reading: as for every loss.
        groups: each image's nouns with their modifiers; None for none.
        previous: each image's maps of its spans at the step before, 0 to 1; None at the first step.
        tau: temperature of the contrast, above 0; the authors' call has 0.5.

    Raises:
        GuidanceError: a tau that is not above 0.
        TokenNotFoundError, GridMismatchError: as in `attend_and_excite`.
    """
    if not tau > 0:
        raise GuidanceError(f"tau is a temperature above 0; got {tau}")
    own = groups if groups is not None else [()] * len(spans)
    members = [_members(image, given) for image, given in zip(spans, own, strict=True)]
    read = subject_maps(maps, [[word for word, _ in image] for image in members], **reading)
    before = [None] * len(spans) if previous is None else previous
    return torch.stack(
        [
            _contrast(*_classed(image, [index for _, index in names], earlier), tau)
            for image, names, earlier in zip(read, members, before, strict=True)
        ]
    )


def _members(spans: Sequence[Span], groups: Sequence[Group]) -> list[tuple[Span, int]]:
    """The words whose maps are compared, each with the number of its class."""
    members = []
    for index, span in enumerate(spans):
        inside = [group for group in groups if set(group.noun.indices) & set(span.indices)]
        words = [word for group in inside for word in (group.noun, *group.modifiers)] or [span]
        members += [(word, index) for word in words]
    return members


def _classed(
    image: Float[Tensor, "_word height width"],
    classes: Sequence[int],
    before: Float[Tensor, "_span height width"] | None,
) -> tuple[Float[Tensor, "_map position"], list[int]]:
    flat = image.flatten(1)
    if before is None:
        return flat, list(classes)
    return torch.cat([flat, before.detach().to(flat).flatten(1)]), [*classes, *range(len(before))]


def _contrast(
    features: Float[Tensor, "_map position"], classes: Sequence[int], tau: float
) -> Float[Tensor, ""]:
    if len(set(classes)) < 2:
        return features.sum() * 0
    unit = functional.normalize(features, dim=1)
    likeness = unit @ unit.T / tau
    label = torch.tensor(classes, device=features.device)
    same = label[:, None] == label
    others = likeness.masked_fill(same, float("-inf")).logsumexp(1, keepdim=True)
    return functional.softplus(others - likeness)[_positives(same)].mean()


def _positives(same: Bool[Tensor, "map map"]) -> Bool[Tensor, "map map"]:
    """Pairs of one class, of a map with itself only where it is alone."""
    apart = ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    alone = same.sum(1) == 1
    return same & (apart | alone[:, None])
