"""Draws what a classifier looked at before and after it was debiased: one sheet, an image a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ...pictures import draw
from ..errors import InputError
from .measures import Sight

SIDE = 160
_SHADE = 0.35
"""How much light is left to what lies outside a mask."""


def looks(
    pictures: Sequence[Image.Image],
    masks: Tensor,
    sights: Sequence[tuple[str, Sight]],
    names: Sequence[str],
    *,
    title: str = "",
) -> Image.Image:
    """A line an image: the image, its subject by the mask, what each model looked at and answered.

    Args:
        pictures: the images, as people see them.
        masks: (image, height, width), 1 on the subject.
        sights: each model's name and what `sight` found of these images, such as before and after.
        names: the model's classes, in the order of their numbers.

    Raises:
        InputError: as many masks or maps as there are not images.
    """
    for what, rows in (("masks", masks), *((name, each.predicted) for name, each in sights)):
        if len(rows) != len(pictures):
            raise InputError(f"wanted one row of {what} for each of {len(pictures)} images, got {len(rows)}")
    lines = [
        [
            draw.Tile(picture),
            draw.Tile(_shaded(picture, masks[row])),
            *(draw.Tile(_seen(picture, each, row), _answer(each, row, names)) for _, each in sights),
        ]
        for row, picture in enumerate(pictures)
    ]
    heads = ["image", "subject", *(name for name, _ in sights)]
    return draw.sheet(lines, column_labels=heads, title=title, side=SIDE)


def _seen(picture: Image.Image, sight: Sight, row: int) -> Image.Image:
    large = picture.resize((SIDE, SIDE * picture.height // picture.width), Image.Resampling.BICUBIC)
    return draw.overlay(large, sight.relevance[row])


def _answer(sight: Sight, row: int, names: Sequence[str]) -> str:
    return f"{names[int(sight.predicted[row])]}, {100 * float(sight.inside[row]):.0f} % inside"


def _shaded(picture: Image.Image, mask: Tensor) -> Image.Image:
    size = (picture.width, picture.height)
    lit = np.asarray(Image.fromarray(mask.bool().numpy()).resize(size, Image.Resampling.NEAREST))
    light = np.where(lit[..., None], 1.0, _SHADE)
    return Image.fromarray((np.asarray(picture.convert("RGB")) * light).astype(np.uint8))
