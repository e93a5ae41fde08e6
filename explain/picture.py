"""Turns a `Relevance` into one picture: maps side by side, under them words and regions with their heat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures.draw import INK, PAPER, Tile, colours, diverging, printable, scaled, sheet

if TYPE_CHECKING:
    from .relevance import Relevance

SIDE, ACROSS, MOST = 256, 4, 24
"""A map's longer side in pixels, maps beside each other, and how many rows of a result one picture shows."""
WARM, COOL = (240, 116, 40), (64, 132, 232)
"""The paper's tint where a word speaks for the target, and against it."""


def picture(relevance: Relevance) -> Image.Image:
    """Every row of a result as a map without its image, its target above it, its words and regions under it.

    More than 24 rows are not shown; the title says so.
    """
    shown = min(len(relevance.targets), MOST)
    rest = len(relevance.targets) - shown
    title = f"{relevance.method} on {relevance.model}" + (f", {rest} more rows not shown" if rest else "")
    lines: list[Sequence[Image.Image | Tile]] = []
    for start in range(0, shown, ACROSS):
        rows = range(start, min(start + ACROSS, shown))
        first, *others = [*_maps(relevance, rows), *strips(relevance, rows)]
        captions = [f"{relevance.targets[row]} ({relevance.scores[row]:.3g})" for row in rows]
        lines += [[Tile(*pair) for pair in zip(first, captions, strict=True)], *others]
    return sheet(lines, title=title, side=SIDE)


def strips(relevance: Relevance, rows: Sequence[int], side: int = SIDE) -> list[list[Image.Image]]:
    """The lines of strips that go under the maps of these rows: words, regions, what a decoder has written.

    Their heat begins at 0, not at the least value: among two words one may well matter half as much.
    """
    lines = []
    if relevance.text is not None:
        lines.append([_text(relevance, row, side) for row in rows])
    shown = [values for values in (relevance.regions, relevance.target_text) if values is not None]
    return lines + [[bars(scaled(values[row], signed=True), side) for row in rows] for values in shown]


def words_strip(words: Sequence[str], heat: Float[np.ndarray, "word"], side: int = SIDE) -> Image.Image:
    """Words in running text, the paper under each tinted by its heat, -1..1 (blue speaks against)."""
    size = max(12, side // 16)
    font = ImageFont.load_default(size)
    line, gap = round(size * 1.5), max(2, side // 64)
    places, left, top = [], 0, 0
    for word in words:
        width = min(side, round(font.getlength(word)) + 2 * gap)
        if left and left + width > side:
            left, top = 0, top + line
        places.append((left, top, left + width))
        left += width
    strip = Image.new("RGB", (side, top + line), PAPER)
    draw = ImageDraw.Draw(strip)
    for (start, height, end), word, value in zip(places, words, heat, strict=True):
        draw.rectangle((start, height, end - 1, height + line - gap), fill=_tint(float(value)))
        draw.text((start + gap, height + gap // 2), word, fill=INK, font=font)
    return strip


def bars(heat: Float[np.ndarray, "region"], side: int = SIDE) -> Image.Image:
    """A bar a region in their order, upwards for positive heat and downwards for negative, -1..1."""
    half = side // 8
    strip = Image.new("RGB", (side, 2 * half + 1 if heat.min() < 0 else half + 1), PAPER)
    draw = ImageDraw.Draw(strip)
    edges = np.linspace(0, side, len(heat) + 1).round().astype(int).tolist()
    for start, end, value in zip(edges[:-1], edges[1:], heat.tolist(), strict=True):
        tip = half - round(value * half)
        corners = (start, min(half, tip), max(start, end - 2), max(half, tip))
        draw.rectangle(corners, fill=_tint(value))
    return strip


def readable(token: str) -> str:
    """A tokenizer's token as a person writes it, without marks of ends and starts; "" for special ones."""
    for mark in ("</w>", "##", "\u0120", "\u2581"):
        token = token.replace(mark, "")
    return "" if re.fullmatch(r"<.+>|\[.+\]", token) else printable(token)


def _maps(relevance: Relevance, rows: Sequence[int]) -> list[list[Image.Image]]:
    if relevance.image is None:
        return []
    return [[_map(relevance.image[row], relevance.signed) for row in rows]]


def _map(values: Float[Tensor, "height width"], signed: bool) -> Image.Image:
    heat = scaled(values, signed=signed)
    height, width = heat.shape
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    large = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(diverging(large) if signed else colours(large))


def _text(relevance: Relevance, row: int, side: int) -> Image.Image:
    assert relevance.text is not None
    values = relevance.text[row]
    if relevance.words is None:
        return bars(scaled(values, signed=True), side)
    words = [readable(word) for word in relevance.words[row]]
    shown = [place for place, word in enumerate(words) if word]
    if not shown:
        return Image.new("RGB", (side, 1), PAPER)
    heat = scaled(values[shown], signed=True)
    return words_strip([words[place] for place in shown], heat, side)


def _tint(value: float) -> tuple[int, int, int]:
    full = WARM if value >= 0 else COOL
    share = min(1.0, abs(value))
    red, green, blue = (round(paper + share * (ink - paper)) for paper, ink in zip(PAPER, full, strict=True))
    return red, green, blue
