"""Loads and recolours the drawings: the world asks for "a red bow, second drawing" and gets pixels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .vocabulary import ANIMALS, COLOURS, SUBJECTS

FOLDER: Final = Path(__file__).with_name("sprites")
SETS: Final = ("noto", "fluent")
RGB: Final[dict[str, tuple[int, int, int]]] = {
    "black": (38, 38, 42),
    "blue": (40, 95, 235),
    "brown": (128, 72, 32),
    "gray": (130, 132, 136),
    "green": (36, 160, 58),
    "orange": (250, 132, 16),
    "pink": (250, 135, 195),
    "purple": (140, 55, 205),
    "red": (218, 30, 38),
    "white": (248, 248, 248),
    "yellow": (250, 214, 30),
}
_LUMA: Final = np.array([0.299, 0.587, 0.114])


@cache
def load_sprite(name: str, drawing: int) -> UInt8[np.ndarray, "side side rgba"]:
    """The drawing number `drawing` (0 Noto, 1 Fluent) of a subject in its own colours."""
    if name not in SUBJECTS:
        raise ValueError(f'no subject "{name}"; the subjects are: {", ".join(SUBJECTS)}')
    if not 0 <= drawing < len(SETS):
        raise ValueError(f"drawing must be 0 to {len(SETS) - 1}, got {drawing}")
    with Image.open(FOLDER / f"{name}-{SETS[drawing]}.png") as file:
        return np.asarray(file.convert("RGBA"))


def body_luminance(sprite: UInt8[np.ndarray, "side side rgba"]) -> float:
    """The luminance, 0 to 1, of the drawing's coloured surface: the one that becomes the new colour."""
    rgb = sprite[..., :3] / 255.0
    chroma = rgb.max(-1) - rgb.min(-1)
    weight = (sprite[..., 3] / 255.0) * (chroma + 0.02)
    luminance = rgb @ _LUMA
    order = np.argsort(luminance, axis=None)
    total = np.cumsum(weight.ravel()[order])
    return float(luminance.ravel()[order][np.searchsorted(total, total[-1] / 2)])


def recolour(sprite: UInt8[np.ndarray, "side side rgba"], colour: str) -> UInt8[np.ndarray, "side side rgba"]:
    """The drawing in another colour, by its luminance alone.

    With L the luminance of a pixel, m that of the drawing's body and c the colour: c (L / m)^0.8 below m,
    c + (1 - c) k (L - m) / (1 - m) above. k is 0.8, but 0.45 for black, else its highlights look gray.
    Raises `ValueError` for a colour that the world does not have.
    """
    if colour not in RGB:
        raise ValueError(f'no colour "{colour}"; the colours are: {", ".join(COLOURS)}')
    target = np.array(RGB[colour]) / 255.0
    luminance = (sprite[..., :3] / 255.0) @ _LUMA
    middle = float(np.clip(body_luminance(sprite), 0.15, 0.8))
    shade = np.minimum(luminance / middle, 1.0) ** 0.8
    light = (0.45 if colour == "black" else 0.8) * np.clip((luminance - middle) / (1.0 - middle), 0.0, 1.0)
    rgb = target * shade[..., None] * (1.0 - light[..., None]) + light[..., None]
    return np.dstack([np.rint(255.0 * rgb).astype(np.uint8), sprite[..., 3]])


@cache
def painted(name: str, drawing: int, colour: str | None) -> Image.Image:
    """The drawing ready for compositing: recoloured, alpha premultiplied (RGBa). Animals have no colour."""
    sprite = load_sprite(name, drawing)
    if colour is not None and name in ANIMALS:
        raise ValueError(f'an animal keeps its own colours, so there is no "{colour} {name}"')
    if colour is not None:
        sprite = recolour(sprite, colour)
    return Image.fromarray(sprite, "RGBA").convert("RGBa")


def placed(
    name: str, drawing: int, colour: str | None, *, side: int, angle: float, mirrored: bool
) -> Float[np.ndarray, "height width rgba"]:
    """The drawing turned by `angle` degrees, its longer side `side` pixels; premultiplied, 0 to 1."""
    image = painted(name, drawing, colour)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    image = image.crop(image.getchannel("a").getbbox())
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32) / 255.0
