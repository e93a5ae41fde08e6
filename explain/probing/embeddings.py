"""What a tower knows before its first layer: positions that are alike, and the filters of its patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..models.common import pair
from ..relevance import versions
from .tower import Tower, tower_of


@dataclass(frozen=True, eq=False)
class Embeddings:
    """How alike a tower's positions are, and its patch embedding's principal filters; float32 on the CPU.

    Attributes:
        similarity: cosine of the position embedding of patch (row, column) with every patch's, -1 to 1.
        filters: principal components of the patch embedding's filters, each of norm 1, the strongest first.
        shares: the share of the filters' variance that each component explains, 0 to 1, falling.
        model: class and name of the model.
        versions: where these numbers come from.
    """

    similarity: Float[Tensor, "height width height width"]
    filters: Float[Tensor, "filter colour _height _width"]
    shares: Float[Tensor, "filter"]
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def embeddings_of(model: nn.Module, *, size: tuple[int, int] | None = None, filters: int = 28) -> Embeddings:
    """Positions and filters as in Figure 7 of Dosovitskiy et al. 2021 (arXiv 2010.11929).

    Args:
        model: of transformers, with patches that attend to each other; see `tower.tower_of`.
        size: (height, width) in pixels of images to which the positions are fitted, as the model itself does
            with `interpolate_pos_encoding`; None for the size that it was trained at.
        filters: how many principal filters; fewer where the patch embedding has fewer.

    Raises:
        UnknownFamilyError: for a model without such patches.
        InputError: for a size that holds no patch, or a tower without learnt positions.
    """
    tower = tower_of(model)
    positions, grid = position_embeddings(tower, size)
    weight = _patch_embedding(tower).weight.detach().float().cpu()
    components, shares = principal_filters(weight, min(filters, *(len(weight), weight[0].numel())))
    return Embeddings(
        similarity=position_similarity(positions.float().cpu(), grid),
        filters=components,
        shares=shares,
        model=tower.model,
        versions=versions(),
    )


def position_similarity(
    positions: Float[Tensor, "patch channel"], grid: tuple[int, int]
) -> Float[Tensor, "height width height width"]:
    """Cosines of every two positions, p_i . p_j / (|p_i| |p_j|), -1 to 1; row by row on the grid.

    Raises:
        InputError: where positions and grid do not fit, or a position is the zero vector.
    """
    if len(positions) != grid[0] * grid[1]:
        raise InputError(f"a grid of {grid[0]} x {grid[1]} does not hold {len(positions)} positions")
    lengths = positions.norm(dim=1, keepdim=True)
    if not (lengths > 0).all():
        raise InputError("a position embedding of zeros has no direction, so no cosine")
    unit = positions / lengths
    return (unit @ unit.T).clamp(-1, 1).unflatten(1, grid).unflatten(0, grid)


def principal_filters(
    weight: Float[Tensor, "channel colour height width"], count: int
) -> tuple[Float[Tensor, "filter colour height width"], Float[Tensor, "filter"]]:
    """The first principal components of a patch embedding's filters, and the variance that each explains.

    Components are of norm 1, their sign is such that the largest value is positive.

    Raises:
        InputError: for something else than filters, or more components than there are.
    """
    if weight.ndim != 4 or not 0 < count <= min(len(weight), weight[0].numel()):
        raise InputError(
            f"wanted filters (channel, colour, height, width) and at least 1 component, at most as many as "
            f"channels or values; got shape {tuple(weight.shape)} and {count}"
        )
    flat = weight.flatten(1)
    _, values, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    chosen = components[:count]
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    shares = values.square() / values.square().sum().clamp(min=1e-30)
    return (chosen * largest.sign()).unflatten(1, weight.shape[1:]), shares[:count]


@torch.no_grad()
def position_embeddings(
    tower: Tower, size: tuple[int, int] | None = None
) -> tuple[Float[Tensor, "patch channel"], tuple[int, int]]:
    """The position embeddings of the patches, and their grid; `size` in pixels as in `embeddings_of`.

    Raises:
        InputError: for a size that holds no patch, or a tower without learnt positions.
    """
    module: Any = tower.module.get_submodule("embeddings")
    found = getattr(module, "position_embeddings", None)
    table = found[0] if isinstance(found, Tensor) else getattr(_child(module), "weight", None)
    if table is None:
        raise InputError(f"{tower.model} has no table of learnt positions")
    config: Any = tower.module.config
    trained = pair(config.image_size)
    grid = trained[0] // tower.patch[0], trained[1] // tower.patch[1]
    count = math.prod(grid)
    if size is None or tuple(size) == trained:
        return table[len(table) - count :].detach(), grid
    wanted = size[0] // tower.patch[0], size[1] // tower.patch[1]
    if min(wanted) < 1 or trained[0] != trained[1]:
        raise InputError(
            f"positions for images of {size[0]} x {size[1]} are not to be had of {tower.model}, which was "
            f"trained at {trained[0]} x {trained[1]}, patches of {tower.patch[0]} x {tower.patch[1]}"
        )
    tokens = table.new_empty(1, len(table) - count + math.prod(wanted), table.shape[1])
    fitted = module.interpolate_pos_encoding(tokens, *size)[0]
    return fitted[len(fitted) - math.prod(wanted) :], wanted


def _child(module: Any) -> Any:
    return getattr(module, "position_embedding", None)


def _patch_embedding(tower: Tower) -> nn.Conv2d:
    for module in tower.module.get_submodule("embeddings").modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise InputError(f"{tower.model} embeds its patches by no convolution, so there are no filters")
