"""Where each head looks from one place: a map for every layer and head, of one image (Caron et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from ..relevance import versions
from .tower import Tower, attention_of, tower_of

Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """Attention from one token to the patches of one image, head by head.

    Attributes:
        maps: probabilities, float32 on the CPU; a map sums to at most 1, the rest lies on special tokens.
        query: the patch (row, column) that looks, or None for the first special token ([CLS]).
        layers: names of the layers, bottom first.
        model: class and name of the model.
        settings, versions: where these numbers come from.
    """

    maps: Float[Tensor, "layer head height width"]
    query: Place | None
    layers: tuple[str, ...]
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def on_specials(self) -> Float[Tensor, "layer head"]:
        """What the query attends to on special tokens, 0 to 1."""
        return (1 - self.maps.sum((2, 3))).clamp(min=0)


def head_maps(
    model: nn.Module, inputs: Mapping[str, Any], query: Place | None = None, *, image: int = 0
) -> HeadMaps:
    """The maps of one query in every layer and head, from one forward.

    Args:
        model: of transformers, with patches that attend to each other; see `tower.tower_of`.
        inputs: as the model takes them; of these `pixel_values` and `interpolate_pos_encoding` are used.
        query: a patch (row, column) of the grid, from (0, 0) at the upper left; None for [CLS].
        image: which one of the batch.

    Raises:
        InputError: for a patch or an image that is not there, or None where there is no special token.
        UnknownFamilyError: for a model without such patches.
    """
    tower = tower_of(model)
    taken = tower.inputs(inputs)
    count = len(taken["pixel_values"])
    if not -count <= image < count:
        raise InputError(f"there is no image {image}; there are {count}, counted from 0")
    taken["pixel_values"] = taken["pixel_values"][[image]]
    grid = tower.grid(taken["pixel_values"])
    token = _token(tower, query, grid)
    (attention,) = attention_of(tower, taken)
    rows = torch.stack([layer[0, :, token, tower.patches(grid)] for layer in attention])
    return HeadMaps(
        maps=rows.unflatten(-1, grid).float().cpu(),
        query=query,
        layers=tower.layers,
        model=tower.model,
        settings={"image": image, "special_tokens": tower.specials},
        versions=versions(),
    )


def _token(tower: Tower, query: Place | None, grid: tuple[int, int]) -> int:
    if query is None:
        if tower.specials:
            return 0
        raise InputError(f"{tower.model} has no [CLS]: name the patch that looks, as query=(row, column)")
    row, column = query
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise InputError(
            f"there is no patch {tuple(query)}: the grid has rows 0 to {grid[0] - 1}, columns 0 to "
            f"{grid[1] - 1}"
        )
    return tower.specials + row * grid[1] + column
