"""Scenes with their truth as tensors, one item at a time: what is where, for whoever asks a vision model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from .judge import SIDE, to_tensor
from .vocabulary import SUBJECTS, article, label
from .world import Scene, Subject, scene

SEED: Final = 7_100
"""Scenes of this seed and the next few are drawn for comparing explanations alone."""
_EACH: Final = 1_000_000
MEAN: Final = (0.5, 0.5, 0.5)
"""What the embedded ViT and CLIP models subtract from pixels of 0..1; `STD` is what they divide by."""
STD: Final = (0.5, 0.5, 0.5)


def one_subject(items: Sequence[int], seed: int = SEED) -> list[Scene]:
    """Scenes of one subject; an item is the same whatever the others are."""
    return [scene(seed * _EACH + item, subjects=1) for item in items]


def two_subjects(items: Sequence[int], seed: int = SEED) -> list[Scene]:
    """Scenes of two subjects, of pairs that every embedded model has seen."""
    return [scene((seed + 1) * _EACH + item, subjects=2) for item in items]


def asked_for(scenes: Sequence[Scene], items: Sequence[int], *, other: bool = False) -> list[Subject]:
    """The subject that each scene is asked for: of two the first in even items, so that neither is favoured.

    Args:
        other: the one that is not asked for.

    Raises:
        ValueError: `other` of a scene with a single subject.
    """
    found = []
    for item, each in zip(items, scenes, strict=True):
        count = len(each.subjects)
        if other and count < 2:
            raise ValueError(f"scene {item} has one subject, so there is no other")
        found.append(each.subjects[(item + other) % count])
    return found


def pictures(scenes: Sequence[Scene], side: int = SIDE) -> tuple[Image.Image, ...]:
    """The scenes, enlarged or reduced to `side` pixels."""
    images = [Image.fromarray(each.image) for each in scenes]
    if side == SIDE:
        return tuple(images)
    return tuple(image.resize((side, side), Image.Resampling.BICUBIC) for image in images)


def pixels(scenes: Sequence[Scene], side: int = SIDE) -> Float[Tensor, "scene 3 side side"]:
    """The scenes as the embedded models take them, from -1 to 1."""
    return to_tensor(pictures(scenes, side), side)


def masks(subjects: Sequence[Subject], side: int = SIDE) -> Bool[Tensor, "scene side side"]:
    """Where the subjects are what one sees, enlarged or reduced to the nearest pixel."""
    found = torch.stack([torch.from_numpy(each.mask) for each in subjects])
    if side == SIDE:
        return found
    return torch.nn.functional.interpolate(found[:, None].float(), size=(side, side))[:, 0] > 0


def labels(subjects: Sequence[Subject]) -> Int[Tensor, "scene"]:
    """The number of each among `SUBJECTS`."""
    return torch.tensor([SUBJECTS.index(each.name) for each in subjects])


def all_right(scenes: Sequence[Scene], names: Sequence[str] = SUBJECTS) -> Float[Tensor, "scene label"]:
    """1 for every label that is true of a scene: its subjects, and coloured objects if `names` has them."""
    found = torch.zeros(len(scenes), len(names))
    for row, each in enumerate(scenes):
        for subject in each.subjects:
            true = {subject.name, label(subject.name, subject.colour)}
            found[row, [place for place, name in enumerate(names) if name in true]] = 1.0
    return found


def texts() -> tuple[str, ...]:
    """A text for each of `SUBJECTS`: "a bear", "an apple"."""
    return tuple(f"{article(name)} {name}" for name in SUBJECTS)
