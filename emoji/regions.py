"""What VisualBERT and LXMERT see of a scene: true boxes, distractors, and features of what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import ViTForImageClassification

from .judge import to_tensor
from .questions import Box, Shown
from .world import SIDE, Scene

REGIONS: Final = 6
"""Regions of every scene: one for each subject, the rest distractors, in any order."""
MARGIN: Final = 1.25
"""The side of the square that is cut out for a region, over the longer side of its box."""
_BILINEAR: Final = Image.Resampling.BILINEAR
COVERED: Final = 0.3
"""The most of a subject's box that a distractor may cover; its intersection over union is lower still."""


@dataclass(frozen=True)
class Regions:
    """The regions of one scene."""

    boxes: tuple[Box, ...]
    """Left, top, right, bottom in pixels, right and bottom exclusive."""
    subjects: tuple[int, ...]
    """Which of the scene's subjects each region is the box of; -1 for a distractor."""


def shown(scene: Scene) -> tuple[Shown, ...]:
    """The scene's subjects as questions see them."""
    return tuple(Shown(one.name, one.colour, one.box) for one in scene.subjects)


def choose_regions(boxes: Sequence[Box], rng: np.random.Generator, count: int = REGIONS) -> Regions:
    """These boxes and enough distractors, shuffled.

    Raises:
        ValueError: more boxes than regions.
    """
    if len(boxes) > count:
        raise ValueError(f"{len(boxes)} boxes do not go into {count} regions")
    others = [_distractor(boxes, rng) for _ in range(count - len(boxes))]
    order = rng.permutation(count)
    whole = [*boxes, *others]
    return Regions(
        tuple(whole[at] for at in order), tuple(int(at) if at < len(boxes) else -1 for at in order)
    )


@torch.no_grad()
def region_features(
    classifier: ViTForImageClassification,
    images: Sequence[Image.Image],
    boxes: Sequence[Sequence[Box]],
    batch_size: int = 256,
) -> Float[Tensor, "image region channel"]:
    """What the embedded classifier makes of each region alone, so that no region knows of another.

    Around each box a square, `MARGIN` times its longer side and shifted into the image, is brought to the
    classifier's size. The feature is the mean of the middle quarter of its patches before the last layer,
    each normalised (layer norm without parameters): there the classifier was taught, patch by patch, which
    subject and which colour is to be seen, of which its last layer keeps the subject. A linear probe reads
    both from it.

    Args:
        images: RGB, 64 x 64.
        boxes: for each image, as many as for the others.
    """
    side = classifier.config.image_size
    pairs = [(image, box) for image, own in zip(images, boxes, strict=True) for box in own]
    features = []
    for at in range(0, len(pairs), batch_size):
        part = pairs[at : at + batch_size]
        crops = [image.crop(_window(box)).resize((side, side), _BILINEAR) for image, box in part]
        features.append(_middle(classifier, crops))
    return torch.cat(features).unflatten(0, (len(images), -1))


def positions(boxes: Sequence[Sequence[Box]]) -> Float[Tensor, "image region 4"]:
    """Left, top, right, bottom as parts of the image's width and height, 0 to 1."""
    return torch.tensor(boxes, dtype=torch.float32) / SIDE


def _middle(
    classifier: ViTForImageClassification, crops: Sequence[Image.Image]
) -> Float[Tensor, "crop channel"]:
    pixels = to_tensor(crops, side=classifier.config.image_size).to(classifier.device, classifier.dtype)
    patches = classifier(pixels, output_hidden_states=True).hidden_states[-2][:, 1:].float()
    grid = round(patches.shape[1] ** 0.5)
    middle = slice(grid // 4, grid - grid // 4)
    normal = functional.layer_norm(patches, patches.shape[-1:]).unflatten(1, (grid, grid))
    return normal[:, middle, middle].mean((1, 2)).cpu()


def _window(box: Box) -> Box:
    """The square about a box, in whole pixels and in the image."""
    side = min(SIDE, round(MARGIN * max(box[2] - box[0], box[3] - box[1])))
    left, top = (min(max((box[axis] + box[axis + 2] - side) // 2, 0), SIDE - side) for axis in (0, 1))
    return left, top, left + side, top + side


def _distractor(boxes: Sequence[Box], rng: np.random.Generator) -> Box:
    """A box that shows little of any of these: the first of 50 that does, ever smaller, else the best."""
    best, least = (0, 0, 1, 1), np.inf
    for attempt in range(50):
        width, height = (int(size) for size in rng.integers(10, max(12, 30 - attempt // 3), size=2))
        left, top = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
        box = (left, top, left + width, top + height)
        covered = max((_covered(one, box) for one in boxes), default=0.0)
        if covered <= COVERED:
            return box
        if covered < least:
            best, least = box, covered
    return best


def _covered(box: Box, by: Box) -> float:
    """The share of `box` that `by` covers."""
    width = max(0, min(box[2], by[2]) - max(box[0], by[0]))
    height = max(0, min(box[3], by[3]) - max(box[1], by[1]))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
