"""Draws results for people: heat laid over an image, and captioned contact sheets (Pillow only).

Everything here is deterministic: the same images and words give the same pixels. Text may come from anyone's
prompt: it is made printable, wrapped, and clipped, so that no text can break a sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, FAINT = (255, 255, 255), (28, 28, 32), (110, 110, 118)


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet and the caption under it."""

    image: Image.Image
    caption: str = ""


def colours(heat: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of heat from 0 (black) over violet, pink and sand to 1 (white).

    The cubehelix map (D. A. Green, "A colour scheme for the display of astronomical intensity images", 2011,
    equation 3) from blue, half a turn forwards, with hue 1.6: perceived brightness grows steadily with the
    heat, so order survives in print and for the colour-blind.
    """
    level = np.clip(heat, 0.0, 1.0).astype(np.float64)
    angle = np.pi * level
    amplitude = 1.6 * level * (1 - level) / 2
    across = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    wave = np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ across.T
    rgb = level[..., None] + amplitude[..., None] * wave
    return (np.clip(rgb, 0.0, 1.0) * 255).round().astype(np.uint8)


def diverging(heat: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of signed heat: from 0 (black) over red to sand at 1, over blue to pale cyan at -1.

    Black stands for nothing, as in `colours`; the two arms are about equally bright, and the colour-blind
    can tell them apart.
    """
    level = np.clip(heat, -1.0, 1.0).astype(np.float64)
    knots = [-1.0, -0.5, 0.0, 0.5, 1.0]
    arms = np.array([(176, 232, 255), (38, 108, 214), (0, 0, 0), (214, 70, 30), (255, 224, 176)])
    channels = [np.interp(level, knots, arms[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def scaled(
    values: Float[Tensor, "*shape"] | Float[np.ndarray, "*shape"], *, signed: bool = False
) -> Float[np.ndarray, "*shape"]:
    """Values of any size as heat: the least is 0 and the largest 1; signed ones keep 0 and fill -1..1.

    Where all values are equal there is nothing to show: 0 everywhere.

    Raises:
        ValueError: if there is no value, or one is not finite.
    """
    found = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"only finite values can be drawn, got shape {found.shape} with others among them")
    low, high = (0.0, np.abs(found).max()) if signed else (found.min(), found.max())
    span = float(high - low)
    heat = (found - low) / span if span > 0 else np.zeros_like(found)
    return heat.astype(np.float32)


def overlay(
    image: Image.Image,
    heat: Float[np.ndarray, "height width"] | Float[Tensor, "height width"],
    *,
    alpha: float = 0.6,
    signed: bool = False,
) -> Image.Image:
    """Lay heat over an image: cold parts darken, hot parts glow.

    Args:
        image: what to draw on; it is not changed.
        heat: values in 0..1 on any grid, rows first; enlarged to the image's size by bicubic interpolation
            and cut to 0..1 again. Scale it yourself: 1 is the hottest colour whatever the other values are.
        alpha: how much of the colour covers the image, 0..1.
        signed: the heat is in -1..1, and negative parts glow blue.

    Returns:
        A new RGB image of the same size.

    Raises:
        ValueError: if `heat` is not two-dimensional, not finite or outside its range, or `alpha` is outside
            0..1.
    """
    values = checked_heat(heat, -1 if signed else 0)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, got {alpha}")
    large = np.asarray(Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC))
    painted = diverging(large) if signed else colours(large)
    return Image.blend(image.convert("RGB"), Image.fromarray(painted), alpha)


def checked_heat(heat: np.ndarray | Tensor, least: int) -> np.ndarray:
    """Heat as a float32 array, if it is a map of finite values in least..1; else `ValueError`."""
    values = heat.detach().float().cpu().numpy() if isinstance(heat, Tensor) else np.asarray(heat)
    values = values.astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"heat must be (height, width) with at least one value, got shape {values.shape}")
    if not np.isfinite(values).all() or values.min() < least or values.max() > 1:
        raise ValueError(
            f"heat must be finite and in {least}..1, got {values.min()} to {values.max()}; scale it first"
        )
    return values


def sheet(
    rows: Sequence[Sequence[Image.Image | Tile | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    side: int = 256,
) -> Image.Image:
    """Lay images out in a grid with captions, on white.

    Args:
        rows: images, `Tile`s with captions, or None for an empty place; rows may differ in length.
        row_labels: one text a row, written at its left; empty for none.
        column_labels: one text a column, written above it; empty for none.
        title: a text above all.
        side: every image is enlarged (bicubic) or reduced to this many pixels on its longer side.

    Returns:
        An RGB image, just large enough.

    Raises:
        ValueError: if there is no image at all, a side of less than 16, or labels that do not match the grid.
    """
    tiles = [[Tile(cell) if isinstance(cell, Image.Image) else cell for cell in row] for row in rows]
    width = max((len(row) for row in tiles), default=0)
    _check_grid(tiles, width, row_labels, column_labels, side)
    layout = _Layout(side, font=max(12, side // 18), margin=max(4, side // 24))
    blocks = [layout.texts([title], width * layout.step)] if title else []
    if column_labels:
        blocks.append(layout.texts(column_labels, layout.step))
    blocks += [layout.tiles(row) for row in tiles]
    labels = [""] * (len(blocks) - len(tiles)) + [*(row_labels or [""] * len(tiles))]
    return layout.stacked(blocks, labels)


def _check_grid(
    tiles: Sequence[Sequence[Tile | None]],
    width: int,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    side: int,
) -> None:
    if not any(tile for row in tiles for tile in row):
        raise ValueError("a sheet needs at least one image, got none")
    if side < 16:
        raise ValueError(f"side must be at least 16 pixels, got {side}")
    if row_labels and len(row_labels) != len(tiles):
        raise ValueError(f"row_labels must be one text a row: wanted {len(tiles)}, got {len(row_labels)}")
    if column_labels and len(column_labels) != width:
        raise ValueError(f"column_labels must be one text a column: wanted {width}, got {len(column_labels)}")


class _Layout:
    """Measures and draws the parts of a sheet; sizes in pixels."""

    def __init__(self, side: int, font: int, margin: int) -> None:
        self.side, self.margin = side, margin
        self.step = side + margin
        self.font = ImageFont.load_default(font)
        self.line = int(font * 1.35)

    def texts(self, texts: Sequence[str], width: int) -> Image.Image:
        """One text a place of `width`, beside each other, each wrapped into it."""
        wrapped = [wrap(text, width - self.margin, self.font) for text in texts]
        height = self.line * max(len(lines) for lines in wrapped) + self.margin
        block = Image.new("RGB", (width * len(texts), height), PAPER)
        for place, lines in enumerate(wrapped):
            self._write(block, (place * width, height - self.line * len(lines)), lines, INK)
        return block

    def tiles(self, row: Sequence[Tile | None]) -> Image.Image:
        """One row of pictures, each with its caption under it."""
        shown = [(self._fitted(tile.image), self._caption(tile)) if tile else None for tile in row]
        tallest = max((entry[0].height for entry in shown if entry), default=0)
        lines = max((len(entry[1]) for entry in shown if entry), default=0)
        height = tallest + self.line * lines + self.margin
        block = Image.new("RGB", (max(1, self.step * len(row)), height), PAPER)
        for place, entry in enumerate(shown):
            if entry:
                image, caption = entry
                block.paste(
                    image, (place * self.step + (self.side - image.width) // 2, tallest - image.height)
                )
                self._write(block, (place * self.step, tallest), caption, FAINT)
        return block

    def stacked(self, blocks: Sequence[Image.Image], labels: Sequence[str]) -> Image.Image:
        """All blocks under each other, each with its label at the left."""
        labelled = self.side // 2 + self.margin if any(labels) else 0
        wrapped = [
            wrap(label, labelled - self.margin, self.font, lines=8) if label else [] for label in labels
        ]
        heights = [
            max(block.height, self.line * len(lines)) for block, lines in zip(blocks, wrapped, strict=True)
        ]
        width = labelled + max(block.width for block in blocks) + self.margin
        page = Image.new("RGB", (width, sum(heights) + 2 * self.margin), PAPER)
        top = self.margin
        for block, lines, height in zip(blocks, wrapped, heights, strict=True):
            page.paste(block, (labelled + self.margin, top))
            self._write(page, (self.margin, top), lines, INK)
            top += height
        return page

    def _fitted(self, image: Image.Image) -> Image.Image:
        scale = self.side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)

    def _caption(self, tile: Tile) -> list[str]:
        return wrap(tile.caption, self.side, self.font) if tile.caption else []

    def _write(self, page: Image.Image, corner: tuple[int, int], lines: Sequence[str], ink: tuple) -> None:
        draw = ImageDraw.Draw(page)
        for number, line in enumerate(lines):
            draw.text((corner[0], corner[1] + number * self.line), line, fill=ink, font=self.font)


def printable(text: str) -> str:
    """The text on one line, with every character that cannot be drawn written as its escape (`\\x00`)."""
    flat = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in flat
    )


def wrap(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, lines: int = 3
) -> list[str]:
    """Break text into at most `lines` lines of `width` pixels; long words are cut, the rest becomes dots."""
    words = [part for word in printable(text).split(" ") for part in _chunks(word, width, font)]
    broken: list[str] = []
    for word in words:
        joined = f"{broken[-1]} {word}" if broken else word
        if broken and font.getlength(joined) <= width:
            broken[-1] = joined
        else:
            broken.append(word)
    if len(broken) <= lines:
        return broken
    return [*broken[: lines - 1], _clipped(broken[lines - 1] + " ...", width, font)]


def _chunks(word: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    chunks = [""]
    for letter in word:
        if chunks[-1] and font.getlength(chunks[-1] + letter) > width:
            chunks.append("")
        chunks[-1] += letter
    return chunks


def _clipped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    kept = text.removesuffix(" ...")
    while kept and font.getlength(kept + " ...") > width:
        kept = kept[:-1]
    return kept + " ..."
