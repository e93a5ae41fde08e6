"""What a DETR finds in fresh scenes, box by box, beside what is there: explanations are made of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image
from transformers import DetrForObjectDetection

from .average_precision import detect, overlap
from .world import Scene, scene

SEED: Final = 7_133
"""Scenes of this seed are drawn for testing explanations alone; scene i is its scene i."""
SURE: Final = 0.5
"""The least probability of a box that counts as found (Chefer et al. 2021, ICCV, section 4.3)."""
RIGHT: Final = 0.5
"""The least overlap with its subject's box at which a found box is right."""


@dataclass(frozen=True)
class FoundBox:
    """One box that a DETR found in a scene."""

    scene: int
    query: int
    name: str
    score: float
    """The probability of its class, 0 to 1."""
    subject: int
    """Which of the scene's subjects its box overlaps most."""
    right: bool
    """Whether that subject is of its name and no surer box took it, and both boxes overlap enough."""


def detection_scene(number: int, subjects: int | None = None, seed: int = SEED) -> Scene:
    """The scene of this number, of so many subjects; None: of the world's own number."""
    return scene(seed * 1_000_000 + number, subjects=subjects, pairs="any")


def found_boxes(
    model: DetrForObjectDetection, count: int, subjects: int | None = None, seed: int = SEED
) -> tuple[FoundBox, ...]:
    """All boxes that the model is surer of than not, in `count` scenes, surest first within a scene.

    Where it is sure of none, the surest: so every scene is counted, and what is missed in it.
    """
    found: list[FoundBox] = []
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        drawn = [detection_scene(number, subjects, seed) for number in numbers]
        claims = detect(model, torch.from_numpy(np.stack([one.image for one in drawn])))
        for number, one, claimed in zip(numbers, drawn, claims, strict=True):
            assert claimed.scores is not None
            found += _found(number, one, claimed.names, claimed.scores, claimed.corners)
    return tuple(found)


def images_of(boxes: Sequence[FoundBox], subjects: int | None = None, seed: int = SEED) -> list[Image.Image]:
    """The scene of each box as an image."""
    return [Image.fromarray(detection_scene(box.scene, subjects, seed).image) for box in boxes]


def _found(
    number: int, drawn: Scene, names: Sequence[str], scores: np.ndarray, corners: np.ndarray
) -> list[FoundBox]:
    order = np.argsort(-scores, kind="stable")
    kept = [int(query) for query in order if scores[query] > SURE] or [int(order[0])]
    shared = overlap(corners[kept], np.array([one.box for one in drawn.subjects], dtype=float))
    taken: set[int] = set()
    found = []
    for query, row in zip(kept, shared, strict=True):
        best = int(row.argmax())
        right = row[best] >= RIGHT and drawn.subjects[best].name == names[query] and best not in taken
        taken |= {best} if right else set()
        found.append(FoundBox(number, query, names[query], float(scores[query]), best, bool(right)))
    return found
