"""The loss of one batch: what a method asks of a model's reasons, and what keeps its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from . import losses
from .examples import MaskedImages
from .relevance import look, look_at_pixels
from .settings import DebiasSettings

Options = Mapping[str, Any]
"""What the model takes beside the pixels, such as `interpolate_pos_encoding=True`."""


def objective(
    model: nn.Module,
    batch: MaskedImages,
    settings: DebiasSettings,
    *,
    options: Options = MappingProxyType({}),
    training: bool = True,
    run: Callable[..., Any] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """What `settings` say is minimised, and its parts by name.

    Args:
        model: in eval mode, on the batch's device.
        training: False for the same number without a graph to the weights.
        run: what is called instead of `model`: the same model, wrapped for several processes.

    Raises:
        InputError: a baseline without labels.
    """
    inputs = {**options, "pixel_values": batch.pixels}
    if settings.method == "relevance":
        return _relevance(model, inputs, batch.masks, settings, training, run)
    if batch.labels is None:
        raise InputError(f'the method "{settings.method}" learns from labels: give them with the images')
    labels = batch.labels

    def score(logits: Tensor) -> Tensor:
        if settings.method == "rrr":
            return losses.log_probability_sum(logits)
        return logits.gather(1, labels[:, None]).sum()

    logits, gradient = look_at_pixels(model, inputs, score, training=training, run=run)
    outside = losses.reasons_outside if settings.method == "rrr" else losses.gradient_outside
    penalty = outside(gradient.to(batch.masks), batch.masks)
    right = losses.label_loss(logits.to(batch.masks), labels)
    return right + settings.penalty * penalty, {"label": right.item(), "penalty": penalty.item()}


def _relevance(
    model: nn.Module, inputs: Options, masks: Tensor, settings: DebiasSettings, training: bool,
    run: Callable[..., Any] | None,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    looked = look(model, inputs, second_order=settings.second_order, training=training, run=run)
    relevance = losses.stretched(looked.relevance.to(masks), (masks.shape[1], masks.shape[2]))
    parts = {
        "background": losses.background_loss(relevance, masks),
        "foreground": losses.foreground_loss(relevance, masks),
        "confidence": losses.confidence_loss(looked.logits.to(masks), settings.temperature),
    }
    seen = settings.background_weight * parts["background"] + settings.foreground_weight * parts["foreground"]
    whole = settings.relevance_weight * seen + settings.confidence_weight * parts["confidence"]
    return whole, {name: each.item() for name, each in parts.items()}


def validation_loss(
    model: nn.Module, images: MaskedImages, settings: DebiasSettings, options: Options = MappingProxyType({})
) -> float:
    """The mean over all images, batch by batch, without a graph to the weights."""
    device = next(model.parameters()).device
    total = 0.0
    for rows in torch.arange(len(images)).split(settings.batch):
        loss, _ = objective(model, images.take(rows).to(device), settings, options=options, training=False)
        total += loss.item() * len(rows)
    return total / len(images)
