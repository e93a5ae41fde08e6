"""Maps that know nothing of what a model learned: what a method must beat to be worth anything."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..evidence import Evidence
from ..models import family_of
from ..models.family import Target
from ..relevance import Relevance, explain, prepared

CONTROLS: Final = ("random", "edges", "first layer column sum", "random weights")
_LUMINANCE: Final = (0.299, 0.587, 0.114)
_Model = TypeVar("_Model", bound=nn.Module)


def controls(
    model: nn.Module, inputs: Mapping[str, Any], like: Relevance, items: Sequence[int], target: Target = None,
    *, seed: int = 0, blind: nn.Module | None = None,
) -> dict[str, Relevance]:  # fmt: skip
    """All of `CONTROLS` that apply, in the shape of what a method found; edges need an image.

    Args:
        like: the result of a method on these inputs and this target, whose method "random weights" repeats.
        items: the number of each row in the data, which its random map comes from.
        target: as `explain` takes it; name it, as a random model predicts something else (for DETR a box by
            its number: a label that no box of the random model shows is an error).
        blind: the model with random weights, if it is at hand: `randomised(model, seed)`.

    Raises:
        InputError: without a named target, or an item for every row.
    """
    if target is None and not family_of(model).asked_by_inputs:
        raise InputError("name the target: a model with random weights would be asked about another one")
    found = {"random": random_like(like, items, seed)}
    if like.image is not None:
        found["edges"] = edges_like(like, _pixels(model, inputs))
    found["first layer column sum"] = first_layer_columns(model, inputs, target)
    blind = randomised(model, seed) if blind is None else blind
    settings = dict(like.settings)
    found["random weights"] = replace(
        explain(blind, inputs, target, like.method, **settings), method=CONTROLS[3]
    )
    return found


def random_like(like: Relevance, items: Sequence[int], seed: int = 0) -> Relevance:
    """Uniform numbers 0..1; an item's are the same in every batch.

    Raises:
        InputError: not one item for each row.
    """
    if len(items) != len(like.targets):
        raise InputError(f"wanted an item for each of {len(like.targets)} rows, got {len(items)}")
    maps: dict[str, Any] = {
        name: random_map(tuple(found.shape[1:]), items, seed + place)
        for place, (name, found) in enumerate(like.maps.items())
    }
    return replace(like, **maps, method=CONTROLS[0], settings={"seed": seed}, signed=False)


def random_map(shape: tuple[int, ...], items: Sequence[int], seed: int = 0) -> Float[Tensor, "row *_"]:
    """Uniform numbers 0..1 of a shape, by seed and item."""
    drawn = [np.random.default_rng([seed, item]).random(shape) for item in items]
    return torch.from_numpy(np.stack(drawn)).float()


def edges_like(like: Relevance, pixels: Float[Tensor, "row channel height width"]) -> Relevance:
    """The edges of the images as image maps, alone."""
    if like.image is None:
        raise InputError("edges need an image, and this relevance has none")
    maps = edge_map(pixels, (like.image.shape[1], like.image.shape[2]))
    whole = maps.expand(len(like.targets), -1, -1)
    return replace(
        like, image=whole, text=None, regions=None, words=None, method=CONTROLS[1], settings={}, signed=False
    )


def edge_map(
    pixels: Float[Tensor, "row channel height width"], grid: tuple[int, int]
) -> Float[Tensor, "row _ _"]:
    """How strong the edges are in every patch: the mean length of Sobel's gradient of the luminance."""
    shares = torch.tensor(_LUMINANCE) if pixels.shape[1] == 3 else torch.full((pixels.shape[1],), 1.0)
    gray = (pixels.float().cpu() * shares[:, None, None]).sum(1, keepdim=True)
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    wide = nn.functional.pad(gray, (1, 1, 1, 1), mode="replicate")
    slopes = nn.functional.conv2d(wide, torch.stack([across, across.T])[:, None])
    return nn.functional.adaptive_avg_pool2d(slopes.norm(dim=1, keepdim=True), grid)[:, 0]


def first_layer_columns(model: nn.Module, inputs: Mapping[str, Any], target: Target = None) -> Relevance:
    """How much attention every token gets in its stream's first self-attention, summed over queries.

    Mean over heads. It looks at one layer, and at no target: attention flow on images comes down to it, where
    the first layer is the narrowest.
    """
    family, moved = family_of(model), prepared(model, inputs)
    evidence = Evidence(model, family, moved, target)
    reading = evidence.reading
    maps: dict[str, Any] = {}
    for segment in reading.segments:
        site = evidence.wiring.of(segment.stream)[0].site
        sums = evidence.seen.attention[site].detach().mean(1).sum(1)[:, segment.positions].float().cpu()
        sums = sums.expand(evidence.rows, -1)
        if segment.mask is not None:
            sums = sums.masked_fill(~segment.mask.cpu(), 0.0)
        maps[segment.kind] = sums.unflatten(1, segment.grid) if segment.grid else sums
    scores = tuple(reading.scores.detach().float().tolist())
    return Relevance(reading.targets, scores, **maps, method=CONTROLS[2], model=type(model).__name__)


def randomised(model: _Model, seed: int = 0) -> _Model:
    """A copy of the model whose weights are random (parameter randomisation, Adebayo et al. 2018).

    Every parameter is drawn from a normal distribution of its own mean and standard deviation, so that what
    was learned is gone and the scale, by which attention is sharp or flat, stays. What is constant (an
    unused bias) stays, and so do buffers.

    Raises:
        InputError: a model without a parameter that this would change.
    """
    blind = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    changed = False
    with torch.no_grad():
        for weight in blind.parameters():
            if weight.is_floating_point() and weight.numel() > 1 and weight.float().std() > 0:
                noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                weight.copy_(noise * weight.float().std() + weight.float().mean())
                changed = True
    if not changed:
        raise InputError(f"{type(model).__name__} has no weights that could be made random")
    return blind


def _pixels(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    name = family_of(model).pixels
    if name is None or not isinstance(inputs.get(name), Tensor):
        raise InputError(f"the inputs hold no image to find edges in, only {', '.join(inputs)}")
    return inputs[name]
