"""Models that decide by a known place of their input, and the maps that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

GRID, CELL = (4, 5), 3
ROWS = 24


class BrightestPatch(nn.Module):
    """Three classes, one a channel; a class is as likely as its channel's brightest patch is bright."""

    def __init__(self, gain: float = 8.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        means = nn.functional.adaptive_avg_pool2d(inputs["pixel_values"], GRID)
        return self.gain * means.flatten(2).amax(2)


class WeighedPatches(nn.Module):
    """Two classes; the second one's logit is a weighed sum of the patches' means: each has a known worth."""

    def __init__(self) -> None:
        super().__init__()
        count = GRID[0] * GRID[1]
        self.weights = torch.linspace(0.05, 1.0, count)[torch.randperm(count, generator=seeded(3))]

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        means = nn.functional.adaptive_avg_pool2d(inputs["pixel_values"], GRID).mean(1).flatten(1)
        logit = (means * self.weights).sum(1)
        return torch.stack([torch.zeros_like(logit), logit], 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(rows: int = ROWS, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Gray images with one patch of one colour: inputs, its class (1 or 2), its mask on the grid."""
    labels = torch.randint(1, 3, (rows,), generator=seeded(seed))
    places = torch.randint(0, GRID[0] * GRID[1], (rows,), generator=seeded(seed + 1))
    truth = nn.functional.one_hot(places, GRID[0] * GRID[1]).unflatten(1, GRID).bool()
    pixels = torch.full((rows, 3, GRID[0] * CELL, GRID[1] * CELL), 0.3)
    cover = enlarged(truth)
    for row, label in enumerate(labels.tolist()):
        pixels[row, label][cover[row]] = 0.9
    return {"pixel_values": pixels}, labels, truth


def enlarged(cells: Tensor, size: int = CELL) -> Tensor:
    """What lies on a grid, in pixels."""
    return cells.repeat_interleave(size, 1).repeat_interleave(size, 2)


def random_maps(rows: int = ROWS, seed: int = 9) -> Tensor:
    return torch.rand(rows, *GRID, generator=seeded(seed))


class Phrasing(nn.Module):
    """Answers with the colour that the text names (ids 20 to 22), if a region shows it, else with class 3."""

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        ids, seen = inputs["input_ids"], inputs["attention_mask"].bool()
        colours = torch.arange(20, 23)
        named = ((ids[..., None] == colours) & seen[..., None]).any(1)
        shown = (inputs["visual_embeds"] * inputs["visual_attention_mask"][..., None]).amax(1) > 0.5
        both = (named & shown).float()
        return torch.cat([both, 1 - both.amax(1, keepdim=True)], 1) * 5


def questions(rows: int = ROWS, seed: int = 4) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Inputs for `Phrasing`, the answers, and maps of the words and of the regions that decide."""
    labels = torch.randint(0, 3, (rows,), generator=seeded(seed))
    lengths = torch.randint(5, 10, (rows,), generator=seeded(seed + 1))
    ids = torch.randint(5, 19, (rows, 9), generator=seeded(seed + 2))
    mask = torch.arange(9) < lengths[:, None]
    places = 1 + (torch.rand(rows, generator=seeded(seed + 3)) * (lengths - 2)).long()
    every = torch.arange(rows)
    ids[:, 0], ids[every, lengths - 1], ids[every, places] = 1, 2, 20 + labels
    regions = torch.randint(0, 6, (rows,), generator=seeded(seed + 4))
    features = torch.zeros(rows, 6, 3)
    features[every, regions, labels] = 1
    inputs = {
        "input_ids": ids * mask,
        "attention_mask": mask.long(),
        "visual_embeds": features,
        "visual_attention_mask": torch.ones(rows, 6, dtype=torch.long),
    }
    words = nn.functional.one_hot(places, 9).float()
    return inputs, labels, words, nn.functional.one_hot(regions, 6).float()
