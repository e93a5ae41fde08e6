"""Draws what the page's third tab found onto the image: keypoints, patches that are suspicious."""

from __future__ import annotations

import io
from typing import Any, Final

from PIL import Image, ImageDraw

from ..explain.probing.spurious import Spurious

SIDE: Final = 384


def framed(image: Image.Image, found: Spurious) -> Image.Image:
    """Flagged patches in a frame, and what the rule takes for the subject a little lighter."""
    rows, columns = found.flagged.shape[1:]
    high, wide = image.height / rows, image.width / columns
    drawn = image.convert("RGB")
    paper = Image.new("RGB", drawn.size, (255, 255, 255))
    mask = Image.fromarray((found.subject[0].numpy() * 70).astype("uint8"))
    drawn.paste(paper, mask=mask.resize(drawn.size, Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(drawn)
    for row, column in found.flagged[0].nonzero().tolist():
        corners = (column * wide, row * high, (column + 1) * wide - 1, (row + 1) * high - 1)
        draw.rectangle(corners, outline=(255, 255, 255), width=5)
        draw.rectangle(corners, outline=(214, 40, 40), width=3)
    return drawn


def circled(image: Image.Image, points: Any, scale: float) -> Image.Image:
    """Circles where keypoints are, of their size."""
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    for x, y, diameter, _ in points * [scale, scale, scale, 1.0]:
        reach = max(2.0, diameter / 2)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=(255, 255, 255), width=3)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=(20, 120, 60), width=1)
    return drawn


def enlarged(image: Image.Image) -> Image.Image:
    """The image with `SIDE` pixels on its longer side."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def opened(data: bytes) -> Image.Image:
    """The picture that a plot was written as."""
    return Image.open(io.BytesIO(data)).convert("RGB")
