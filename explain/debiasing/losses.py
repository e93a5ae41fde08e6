"""What a model that looks at the right thing is asked for, as formulas on tensors: one loss a batch each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Maps = Float[Tensor, "row height width"]
"""Relevance of pixels, or masks: 1 where the subject is, 0 elsewhere."""


def stretched(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "row _height _width"]:
    """Relevance of patches in pixels, each row from its least (0) to its largest value (1).

    Bilinear, then (r - min r) / (max r - min r), as the code of RobustViT (Chefer et al. 2022) does; a row of
    equal values is 0 everywhere instead of NaN. The gradient flows through the least and the largest, too.

    Args:
        size: (height, width) in pixels.
    """
    large = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    least, most = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    span = most - least
    return (large - least) / span.masked_fill(span == 0, 1)


def background_loss(relevance: Maps, masks: Maps) -> Float[Tensor, ""]:
    """Mean of (R (1 - S))^2 over rows and pixels: no relevance off the subject. Chefer et al. 2022, L_bg."""
    return (relevance * (1 - masks)).square().mean()


def foreground_loss(relevance: Maps, masks: Maps) -> Float[Tensor, ""]:
    """Mean of (R S - S)^2 over rows and pixels: relevance 1 on the subject. Chefer et al. 2022, L_fg."""
    return (relevance * masks - masks).square().mean()


def confidence_loss(logits: Float[Tensor, "row label"], temperature: float = 1.0) -> Float[Tensor, ""]:
    """Cross-entropy of logits / T against the model's own answer. Chefer et al. 2022, L_classification.

    It asks for no label: it keeps what the model says, so that only the reasons for it move.
    """
    return functional.cross_entropy(logits / temperature, logits.detach().argmax(1))


def gradient_outside(gradient: Float[Tensor, "row channel height width"], masks: Maps) -> Float[Tensor, ""]:
    """GradMask (Simpson et al. 2019): mean of (dy_c/dx (1 - S))^2 over rows, channels and pixels.

    Args:
        gradient: of the class's logit by the pixels, in the graph of the weights.
    """
    return (gradient * (1 - masks)[:, None]).square().mean()


def reasons_outside(gradient: Float[Tensor, "row channel height width"], masks: Maps) -> Float[Tensor, ""]:
    """Right for the right reasons (Ross et al. 2017, Eq. 1): sum over pixels, mean over rows.

    The sum of (d sum_k log p_k / dx (1 - S))^2 over channels and pixels. The published formula sums over rows
    as well; the mean makes it independent of the batch.

    Args:
        gradient: of the sum of log-probabilities over all classes by the pixels, in the graph.
    """
    return (gradient * (1 - masks)[:, None]).square().flatten(1).sum(1).mean()


def inside(relevance: Maps, masks: Maps) -> Float[Tensor, "row"]:
    """The share of each map's positive relevance that lies on the subject, 0 to 1; 0 for an empty map."""
    positive = relevance.clamp(min=0)
    whole = positive.flatten(1).sum(1)
    return (positive * masks).flatten(1).sum(1) / whole.masked_fill(whole == 0, 1)


def label_loss(logits: Float[Tensor, "row label"], labels: Int[Tensor, "row"]) -> Float[Tensor, ""]:
    """Cross-entropy against the true labels, which both baselines have beside their penalty."""
    return functional.cross_entropy(logits, labels)


def log_probability_sum(logits: Float[Tensor, "row label"]) -> Float[Tensor, ""]:
    """The sum of log p over rows and classes, of which `reasons_outside` takes the gradient."""
    return torch.log_softmax(logits, 1).sum()
