"""Maps, words and slow twins that the tests of the losses share."""

from __future__ import annotations

import numpy as np
import oracles
import torch
from heedful.guidance.groups import Group
from heedful.guidance.maps import AttentionMaps
from heedful.guidance.regions import Box
from heedful.guidance.tokens import Span

CAT, FROG, BOW, RED, RED_BOW = (
    Span("cat", (2,)),
    Span("frog", (5,)),
    Span("bow", (4,)),
    Span("red", (3,)),
    Span("red bow", (3, 4)),
)
GROUP = Group(BOW, (RED,))
TWO = Group(FROG, (RED, BOW))
SPANS = [[CAT, RED_BOW, FROG], [FROG, CAT]]
GROUPS = [(GROUP,), (TWO,)]
LEFT, CORNER = Box(0, 0, 0.5, 1), Box(0.4, 0.3, 1, 1)
BOXES = [[LEFT, None, CORNER], [CORNER, LEFT]]
LAST = [7, 8]
GRID = (4, 5)


def random_maps(
    batch: int = 2, seed: int = 0, grid: tuple[int, int] = GRID, tokens: int = 9, follow: bool = False
) -> AttentionMaps:
    """Two layers over the text and two over the image, float64; the start token holds most attention."""
    generator = torch.Generator().manual_seed(seed)
    layers, own = {}, {}
    for name, heads in (("down", 2), ("up", 3)):
        logits = torch.randn(batch, heads, *grid, tokens, generator=generator, dtype=torch.float64)
        logits[..., 0] += 3
        layers[name] = logits.softmax(-1).requires_grad_(follow)
        cells = torch.randn(batch, *grid, grid[0] * grid[1], generator=generator, dtype=torch.float64)
        own[name + ".self"] = cells.mul(2).softmax(-1).unflatten(-1, grid).requires_grad_(follow)
    return AttentionMaps(layers, own)


def previous(seed: int = 9) -> list[torch.Tensor]:
    """Maps of the step before, as many an image as `SPANS`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(len(own), *GRID, generator=generator, dtype=torch.float64) for own in SPANS]


def given(maps: AttentionMaps) -> dict:
    """All that a loss may need beside maps and spans."""
    return {"last": LAST, "groups": GROUPS, "boxes": BOXES, "previous": previous()}


def slow_map(maps: AttentionMaps, image: int, span: Span, last: list[int] | None = LAST) -> np.ndarray:
    """The map of one span as the losses read it by default."""
    layers = {name: layer.detach().numpy() for name, layer in maps.layers.items()}
    grid = next(iter(maps.grids.values()))
    return oracles.subject_map(layers, image, span.indices, last=last and last[image], grid=grid)


def slow_attention(maps: AttentionMaps, image: int, indices: tuple[int, ...]) -> np.ndarray:
    """The mean attention to some tokens, as it is."""
    layers = {name: layer.detach().numpy() for name, layer in maps.layers.items()}
    mean = oracles.mean_map(layers, image, next(iter(maps.grids.values())))
    return sum(mean[:, :, index] for index in indices)
