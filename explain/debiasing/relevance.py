"""The generic rule's map of a model that is being trained: in the autograd graph of the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..capture import Capture, capture
from ..errors import CaptureError, UnsupportedMethodError
from ..models import family_of
from ..models.family import Family
from ..rules import fuse, row_relevance, without_readout
from ..wiring import SelfStep


@dataclass(frozen=True, eq=False)
class Looked:
    """What one forward answered, and what its answers rest on, both in the graph."""

    logits: Float[Tensor, "row label"]
    targets: Int[Tensor, "row"]
    """The class whose relevance it is: the one with the largest logit."""
    relevance: Float[Tensor, "row high wide"]
    """Of the patches, on their grid."""


def classifier_family(model: nn.Module) -> Family:
    """The adapter of a classifier of images that is one tower of self-attention.

    Raises:
        UnknownFamilyError: a model that no adapter takes.
        UnsupportedMethodError: a model that has several streams, or does not classify images.
    """
    family = family_of(model)
    steps = family.wiring(model).steps
    plain = all(isinstance(step, SelfStep) and step.stream == "image" for step in steps)
    if not plain or not hasattr(getattr(model, "config", None), "id2label"):
        raise UnsupportedMethodError(
            f"{type(model).__name__} ({family.name}) cannot be debiased: wanted is a vision transformer that "
            "classifies images, such as ViTForImageClassification, DeiTForImageClassification or "
            "Dinov2ForImageClassification"
        )
    return family


def look(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    second_order: bool = False,
    training: bool = True,
    run: Callable[..., Any] | None = None,
) -> Looked:
    """One forward, and the generic rule of its predicted classes: Chefer et al. 2021 (ICCV), Eq. 5 and 6.

    R = prod_l (I + E_h[(dA_l * A_l)^+]), of which the row of the tokens that the head reads is carried, and
    what these say of themselves left out. Weights that want a gradient get it through R.

    Args:
        model: a classifier in eval mode.
        inputs: what it takes, on its device.
        second_order: also differentiate dA, as the loss is written. Else dA is a constant and the gradient
            flows through A alone, as in the published code.
        training: False freezes the weights meanwhile: the same numbers, without their graph.
        run: what is called instead of `model`: the same model, wrapped for several processes.

    Raises:
        CaptureError: attention that cannot be read as it should be, or a gradient that is not finite.
    """
    family = classifier_family(model)
    family.check(model, inputs)
    sites = family.sites(model)
    with capture(model, sites, watch=family.watches(model), frozen=not training) as seen:
        outputs = (run or model)(**inputs)
    reading = family.read(model, inputs, outputs, seen, None)
    if second_order and training:
        gradients = in_graph(seen, reading.scores, [seen.attention[site] for site in sites])
    else:
        found = seen.gradients(reading.scores, sites)
        gradients = tuple(found[site] for site in sites)
    cams = [fuse(seen.attention[site], each) for site, each in zip(sites, gradients, strict=True)]
    (readout,), (segment,) = reading.readouts, reading.segments
    weights = readout.weights.to(cams[0])
    row = without_readout(row_relevance(cams[::-1], weights) - weights, weights)
    patches = row[:, segment.positions].unflatten(1, segment.grid or (1, -1))
    return Looked(outputs.logits, outputs.logits.detach().argmax(1), patches)


def look_at_pixels(
    model: nn.Module,
    inputs: Mapping[str, Any],
    score: Callable[[Float[Tensor, "row label"]], Float[Tensor, ""]],
    *,
    training: bool = True,
    run: Callable[..., Any] | None = None,
) -> tuple[Float[Tensor, "row label"], Float[Tensor, "row channel height width"]]:
    """The logits, and d score / d pixels in the graph of the weights, for the penalties of both baselines.

    The forward runs under `capture` because the fast kernels of attention cannot be differentiated twice.

    Args:
        score: from the logits to the number that is differentiated.

    Raises:
        CaptureError: as `look`.
    """
    family = classifier_family(model)
    family.check(model, inputs)
    pixels = inputs["pixel_values"].detach().requires_grad_()
    with capture(model, family.sites(model), frozen=not training) as seen:
        logits = (run or model)(**{**inputs, "pixel_values": pixels}).logits
    (gradient,) = in_graph(seen, score(logits)[None], [pixels])
    return logits, gradient


def in_graph(seen: Capture, scores: Float[Tensor, "row"], inner: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """d scores / d inner tensors, differentiable again, by the largest loss scale at which it is finite.

    Raises:
        CaptureError: where it is finite at none.
    """
    seen.check()
    for scale in seen.scales:
        found = torch.autograd.grad(scores, inner, torch.full_like(scores, scale), create_graph=True)
        if all(torch.isfinite(each).all() for each in found):
            return tuple(each / scale for each in found)
    raise CaptureError("a gradient is not finite, though its score is: train in bfloat16 or float32")
