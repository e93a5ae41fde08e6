"""Recorded layers as one value, so that losses speak of a (height, width) map a token and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .errors import GridMismatchError, GuidanceError, LayerNotFoundError

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """What the layers over the text recorded in one pass of the denoiser.

    `layers` maps a layer's diffusers name to its attention probabilities of shape
    (batch, heads, height, width, token): how much the image position (row, column) attends to each
    position of the text sequence, start token and padding included. Values lie in 0..1 and sum to 1 over the
    tokens. Of a transformer's joint attention they are the image's queries with the text's keys alone: the
    joint probabilities of these divided by their sum over the text, so that they too sum to 1. Batch and
    token count are the same in all layers; heads and grids may differ. The tensors stay in the autograd graph
    when the run is guided; none of the methods changes them in place.

    `self_layers` is empty but where a loss needs self-attention; it then maps a self-attention layer's name
    to the mean over its heads, of shape (batch, height, width, rows, columns): how much the image position
    (row, column) of the first grid attends to each of the second, sum 1 (of a joint attention likewise: among
    the image's own keys). It takes (height width)^2 numbers a layer and image, and while guiding the graph
    keeps each head's besides.

    Raises:
        GuidanceError: no layer at all, or layers that differ in batch size or token count.
        GridMismatchError: a layer that is not five-dimensional, or has an empty dimension.
    """

    layers: Mapping[str, Tensor]
    self_layers: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise GuidanceError("no layer has recorded anything; attention maps need at least one layer")
        for name, layer in self.layers.items():
            _check_shape(name, layer)
        for name, layer in self.self_layers.items():
            if layer.ndim != 5 or layer.shape[0] != self.batch or layer.shape[1:3] != layer.shape[3:]:
                raise GridMismatchError(
                    f"self-attention of {name!r} has shape {tuple(layer.shape)}; wanted "
                    f"({self.batch}, height, width, height, width)"
                )
        for axis, what in ((0, "batch sizes"), (4, "token counts")):
            sizes = {name: layer.shape[axis] for name, layer in self.layers.items()}
            if len(set(sizes.values())) > 1:
                raise GuidanceError(
                    f"layers of one pass must agree, but their {what} differ: {_listed(sizes)}"
                )

    @property
    def batch(self) -> int:
        """Number of images."""
        return next(iter(self.layers.values())).shape[0]

    @property
    def tokens(self) -> int:
        """Length of the text sequence, start token and padding included."""
        return next(iter(self.layers.values())).shape[4]

    @property
    def grids(self) -> dict[str, Grid]:
        """The grid (height, width) of each layer, by the layer's name."""
        return {name: (layer.shape[2], layer.shape[3]) for name, layer in self.layers.items()}

    def select(self, names: Iterable[str]) -> AttentionMaps:
        """Return the maps of the named layers only, in the order given.

        Raises:
            LayerNotFoundError: a name that was not recorded, or no name at all.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        missing = [name for name in wanted if name not in self.layers]
        if missing or not wanted:
            asked = ", ".join(map(repr, missing)) or "none"
            raise LayerNotFoundError(f"layers asked for: {asked}; layers recorded: {', '.join(self.layers)}")
        return AttentionMaps({name: self.layers[name] for name in wanted})

    def mean(self, grid: Grid | None = None) -> Float[Tensor, "batch height width token"]:
        """Return the mean over all heads of all layers, in float32 (float64 stays float64).

        Formula: sum over layers l and heads h of A[l, h], divided by the number of heads in all layers, so
        that each head weighs the same whatever its layer (as in Attend-and-Excite, which joins the heads of
        all layers before it takes the mean). With `grid` given, each layer is first pooled to it by area,
        which keeps the sum over the tokens; a layer coarser than `grid` has its cells repeated.

        Raises:
            GridMismatchError: the layers have different grids and no `grid` is given.
        """
        target = grid or _only_grid(self.grids)
        heads = sum(layer.shape[1] for layer in self.layers.values())
        total = sum(pool(_precise(layer).sum(1), target) for layer in self.layers.values())
        assert isinstance(total, Tensor)
        return total / heads

    def self_attention(self, grid: Grid | None = None) -> Float[Tensor, "batch height width height width"]:
        """Return the mean over all self-attention layers, each pooled to one grid, in float32.

        With `grid` None it is that of the layers over the text, which must share one. Those that attend and
        those attended to are pooled by area alike, so that proportions stay and sums shrink with the cells.

        Raises:
            GuidanceError: no self-attention was recorded.
            GridMismatchError: the layers over the text have different grids and no `grid` is given.
        """
        if not self.self_layers:
            raise GuidanceError(
                "these maps hold no self-attention; a loss that reads it declares "
                '@needs("self_attention"), so that it is recorded'
            )
        target = grid or _only_grid(self.grids)
        layers = [_pool_both(_precise(layer), target) for layer in self.self_layers.values()]
        return torch.stack(layers).mean(0)


def pool(
    maps: Float[Tensor, "batch _height _width token"], grid: Grid
) -> Float[Tensor, "batch _rows _columns token"]:
    """Pool maps to `grid` (rows, columns) by area: each new cell is the mean of the old ones it covers.

    Differentiable. Where the old grid is not a multiple of the new one, an old cell can count in two new ones
    (`torch.nn.functional.interpolate(mode="area")`).

    Raises:
        GridMismatchError: a grid without two positive sizes.
    """
    if len(grid) != 2 or min(grid) < 1:
        raise GridMismatchError(f"a grid is (height, width), both at least 1; got {tuple(grid)}")
    if tuple(maps.shape[1:3]) == tuple(grid):
        return maps
    pooled = functional.interpolate(maps.permute(0, 3, 1, 2), size=tuple(grid), mode="area")
    return pooled.permute(0, 2, 3, 1)


def _pool_both(
    maps: Float[Tensor, "batch _height _width _height _width"], grid: Grid
) -> Float[Tensor, "batch _rows _columns _rows _columns"]:
    """Pool the positions that attend and those attended to."""
    attending = pool(maps.flatten(3), grid).unflatten(3, maps.shape[3:])
    attended = pool(attending.flatten(1, 2).permute(0, 2, 3, 1), grid)
    return attended.permute(0, 3, 1, 2).unflatten(1, grid)


def _only_grid(grids: Mapping[str, Grid]) -> Grid:
    found = set(grids.values())
    if len(found) > 1:
        raise GridMismatchError(
            f"the layers' grids differ: {_listed({k: f'{h}x{w}' for k, (h, w) in grids.items()})}; "
            "select layers of one grid, or give mean() the grid to pool to"
        )
    return found.pop()


def _check_shape(name: str, layer: Tensor) -> None:
    if layer.ndim != 5 or 0 in layer.shape:
        raise GridMismatchError(
            f"layer {name!r} has shape {tuple(layer.shape)}; wanted (batch, heads, height, width, token)"
        )


def _precise(layer: Tensor) -> Tensor:
    """Half precision loses small probabilities when thousands are summed, so means are taken in float32."""
    return layer if layer.dtype == torch.float64 else layer.float()


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())
