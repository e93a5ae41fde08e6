"""Keeps drawn scenes and their truth, pixel by pixel, so that a ViT can be taught patch by patch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from ..world import COLOURS, LABELS, OBJECTS, SIDE, SUBJECTS, Pairs, Scene, scenes

MOST_SUBJECTS: Final = 3
NOBODY: Final = len(SUBJECTS)
"""The dense class of the background; a colour's is `len(COLOURS)` where there is none."""


@dataclass(frozen=True)
class Labelled:
    """Scenes as arrays; `slots` says for every pixel which subject is seen there, 1 to 3, or 0."""

    images: UInt8[Tensor, "scene height width rgb"]
    slots: UInt8[Tensor, "scene height width"]
    names: UInt8[Tensor, "scene slot"]
    """Index into `SUBJECTS`; slot 0 is the background and holds `NOBODY`."""
    colours: UInt8[Tensor, "scene slot"]
    """Index into `COLOURS`, or `len(COLOURS)`."""
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        """Write to one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> Labelled:
        """Read what `save` wrote."""
        return cls(**torch.load(path, weights_only=True))


@dataclass(frozen=True)
class Batch:
    """What a training step sees: images in -1 to 1 and the truth of the whole image and of each patch."""

    pixels: Float[Tensor, "scene 3 height width"]
    labels: Float[Tensor, "scene label"]
    patch_names: Float[Tensor, "scene patch name"]
    """Which share of each patch belongs to each subject; the last column is the background."""
    patch_colours: Float[Tensor, "scene patch colour"]
    rows: Int64[Tensor, "scene"]

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw_labelled(seed: int, counts: dict[int | None, int], *, pairs: Pairs = "any") -> Labelled:
    """Draw scenes: `counts` says how many of one, two, three or (None) the world's own number of subjects."""
    drawn: list[Scene] = []
    for number, count in counts.items():
        drawn += scenes(seed * 10 + (number or 0), count, subjects=number, pairs=pairs)
    return pack(drawn)


def pack(drawn: list[Scene]) -> Labelled:
    """Scenes to arrays."""
    names = np.full((len(drawn), MOST_SUBJECTS + 1), NOBODY, np.uint8)
    colours = np.full((len(drawn), MOST_SUBJECTS + 1), len(COLOURS), np.uint8)
    slots = np.zeros((len(drawn), SIDE, SIDE), np.uint8)
    for row, scene in enumerate(drawn):
        for slot, subject in enumerate(scene.subjects, start=1):
            names[row, slot] = SUBJECTS.index(subject.name)
            colours[row, slot] = len(COLOURS) if subject.colour is None else COLOURS.index(subject.colour)
            slots[row][subject.mask] = slot
    images = torch.from_numpy(np.stack([scene.image for scene in drawn]))
    captions = tuple(scene.caption for scene in drawn)
    truth = (torch.from_numpy(slots), torch.from_numpy(names), torch.from_numpy(colours))
    return Labelled(images, *truth, captions)


def label_matrix(data: Labelled, rows: Int64[Tensor, "scene"]) -> Float[Tensor, "scene label"]:
    """1 for every label of `LABELS` that holds: the subjects drawn, and the objects in their colours."""
    names, colours = data.names[rows, 1:].long(), data.colours[rows, 1:].long()
    labels = torch.zeros(len(rows), len(LABELS) + 1)
    labels.scatter_(1, torch.where(names == NOBODY, len(LABELS), names), 1.0)
    thing = names - (len(SUBJECTS) - len(OBJECTS))
    coloured = len(SUBJECTS) + thing * len(COLOURS) + colours
    labels.scatter_(1, torch.where(colours == len(COLOURS), len(LABELS), coloured), 1.0)
    return labels[:, :-1]


def make_batch(data: Labelled, rows: Int64[Tensor, "scene"], patch: int, generator: torch.Generator) -> Batch:
    """These scenes, mirrored at random and shifted by up to three pixels, with the truth of their patches."""
    images, slots = move(data.images[rows], data.slots[rows], generator)
    shares = patch_shares(slots, patch)
    names = functional.one_hot(data.names[rows].long(), NOBODY + 1).float()
    colours = functional.one_hot(data.colours[rows].long(), len(COLOURS) + 1).float()
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return Batch(pixels, label_matrix(data, rows), shares @ names, shares @ colours, rows)


def patch_shares(slots: UInt8[Tensor, "scene height width"], patch: int) -> Float[Tensor, "scene patch slot"]:
    """Which share of each patch belongs to each slot; slot 0 is the background."""
    layers = functional.one_hot(slots.long(), MOST_SUBJECTS + 1).permute(0, 3, 1, 2).float()
    return functional.avg_pool2d(layers, patch).flatten(2).transpose(1, 2)


def move(images: Tensor, slots: Tensor, generator: torch.Generator, most: int = 3) -> tuple[Tensor, Tensor]:
    """Shift and mirror each scene for itself; where a shift leaves nothing, the border is repeated."""
    count, side = len(images), images.shape[1]
    by = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    rows, columns = (torch.arange(side) - by).clamp(0, side - 1)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    where = (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    return images[where], slots[where]
