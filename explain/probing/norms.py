"""How much each branch of a layer adds to what passes by it: norms of skip connections over branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import CaptureError, InputError
from ..relevance import versions
from .activations import activations
from .tower import Tower, tower_of


@dataclass(frozen=True, eq=False)
class NormRatios:
    """|z| / |f(z)| of both branches of every layer, token by token, the mean over images; float32, CPU.

    Attributes:
        attention: of the skip connection around self-attention; above 1 more passes by than is added.
        feed_forward: of the skip connection around the feed-forward part.
        specials: how many of the tokens, the first ones, are no patches.
        layers: names of the layers, bottom first.
        model: class and name of the model.
        settings, versions: where these numbers come from.
    """

    attention: Float[Tensor, "layer token"]
    feed_forward: Float[Tensor, "layer token"]
    specials: int
    layers: tuple[str, ...]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def norm_ratio(
    skip: Float[Tensor, "*token channel"], branch: Float[Tensor, "*_ _channel"]
) -> Float[Tensor, "*token"]:
    """|skip| / |branch|, Euclidean over the channels (Raghu et al. 2021, Sec. 5, Fig. 7).

    Raises:
        InputError: for shapes that differ, or a branch that adds nothing at a token.
    """
    if skip.shape != branch.shape:
        raise InputError(f"skip and branch differ: {tuple(skip.shape)} and {tuple(branch.shape)}")
    lengths = branch.norm(dim=-1)
    if not (lengths > 0).all():
        raise InputError("a branch adds nothing at a token, so that the ratio of norms is infinite")
    return skip.norm(dim=-1) / lengths


def norm_ratios(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> NormRatios:
    """The norm ratio of skip and branch for attention and feed-forward part of every layer.

    Args:
        model: of transformers, with patches that attend to each other; see `tower.tower_of`.
        inputs: as the model takes them; of these `pixel_values` and `interpolate_pos_encoding` are used.
        batch_size: images at once.
        progress: told how many images of how many are done.

    Raises:
        UnknownFamilyError: for a model without such patches.
        InputError: for images that do not fit the model, or a batch of less than one.
        CaptureError: for layers that are not built as x + attention, then + feed-forward.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    tower = tower_of(model)
    taken = tower.inputs(inputs)
    pixels = taken.pop("pixel_values")
    parts = [_branches(tower, place) for place in range(len(tower.layers))]
    names = {tower.embeddings, *tower.layers, *(name for both in parts for name in both)}
    total, done = torch.zeros(2, 1, 1), 0
    for portion in pixels.split(batch_size):
        with torch.no_grad(), activations(tower.module, sorted(names)) as seen:
            tower.module(pixel_values=portion, **taken)
        total, done = total + _ratios(tower, parts, seen).sum(2).cpu(), done + len(portion)
        if progress is not None:
            progress(done, len(pixels))
    attention, feed_forward = total / len(pixels)
    return NormRatios(
        attention=attention,
        feed_forward=feed_forward,
        specials=tower.specials,
        layers=tower.layers,
        model=tower.model,
        settings={"images": len(pixels)},
        versions=versions(),
    )


def _branches(tower: Tower, place: int) -> tuple[str, str]:
    """The modules that give what a layer adds: of attention and feed-forward part, scaled where it does."""
    layer = tower.layers[place]
    there = {name for name, _ in tower.module.get_submodule(layer).named_children()}
    if "mlp" not in there:
        raise CaptureError(f"{tower.model} has no feed-forward part `mlp` in {layer}; it has {sorted(there)}")
    if {"layer_scale1", "layer_scale2"} <= there:
        return f"{layer}.layer_scale1", f"{layer}.layer_scale2"
    return tower.sites[place].module, f"{layer}.mlp"


def _ratios(
    tower: Tower, parts: list[tuple[str, str]], seen: Mapping[str, Tensor]
) -> Float[Tensor, "2 layer image token"]:
    entering, found = seen[tower.embeddings].float(), []
    for layer, (attention, feed_forward) in zip(tower.layers, parts, strict=True):
        attended, fed, leaving = (seen[name].float() for name in (attention, feed_forward, layer))
        between = entering + attended
        _check_sum(tower, layer, between + fed, leaving, seen[layer].dtype)
        found.append(torch.stack([norm_ratio(entering, attended), norm_ratio(between, fed)]))
        entering = leaving
    return torch.stack(found, 1)


def _check_sum(tower: Tower, layer: str, wanted: Tensor, came: Tensor, dtype: torch.dtype) -> None:
    """Two skip connections or nothing: norms of anything else would look just as plausible."""
    apart = float((wanted - came).norm() / came.norm().clamp(min=1e-30))
    if not apart < (1e-4 if dtype in (torch.float32, torch.float64) else 0.02):
        raise CaptureError(
            f"{layer} of {tower.model} is not what enters it plus its attention plus its feed-forward part: "
            f"they differ by {apart:.3g} of its norm, so that there are no such skip connections"
        )
