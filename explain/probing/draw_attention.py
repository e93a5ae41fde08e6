"""Draws how far heads look, where from one place, which positions are alike, and what branches add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from ...pictures import Tile, overlay, scaled, sheet
from ...pictures.draw import diverging
from .embeddings import Embeddings
from .head_statistics import HeadStatistics
from .heads import HeadMaps
from .norms import NormRatios
from .plots import COLOURS, GRAY, empty, save, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["filter_sheet", "head_sheet", "norm_lines", "position_sheet", "save", "statistics"]
FIGURES: Final = {
    "distance": "mean distance, pixels",
    "entropy": "entropy, bits",
    "on_patches": "share of attention on patches",
}
_QUERY: Final = (40, 220, 90)


def statistics(
    found: Mapping[str, HeadStatistics], controls: Mapping[str, HeadStatistics] | None = None
) -> Figure:
    """A column a model: distance, entropy and share on patches, a dot a head, a line for their mean.

    Args:
        found: by the title of their column.
        controls: by the same titles what is drawn beside in gray, such as a twin with random weights.
    """
    figure, axes = empty(2.6 * len(found) + 0.5, 5.4, len(FIGURES), len(found), sharey="row")
    for column, (title, one) in enumerate(found.items()):
        beside = (controls or {}).get(title)
        for row, (name, label) in enumerate(FIGURES.items()):
            each = axes[row, column]
            if beside is not None:
                _dots(each, getattr(beside, name), GRAY, 0.16)
            _dots(each, getattr(one, name), COLOURS[0], 0.0)
            if (even := _even(one, name)) is not None:
                each.axhline(even, color=GRAY, linewidth=0.8, linestyle="--")
            if column == 0:
                each.set_ylabel(label, fontsize=7)
        axes[0, column].set_title(title, fontsize=8)
        axes[-1, column].set_xlabel("layer", fontsize=7)
    return figure


def _dots(axes: Any, values: Float[Tensor, "image layer head"], colour: str, aside: float) -> None:
    heads = values.mean(0).numpy()
    places = np.arange(len(heads)) + aside
    axes.plot(places, heads, ".", color=colour, markersize=5, alpha=0.8)
    axes.plot(places, heads.mean(1), "-", color=colour, linewidth=1)
    axes.set_xticks(range(len(heads)))


def _even(found: HeadStatistics, name: str) -> float | None:
    """What attention that is the same everywhere has."""
    if name == "distance":
        return found.uniform
    return float(np.log2(found.grid[0] * found.grid[1])) if name == "entropy" else None


def norm_lines(found: Mapping[str, NormRatios]) -> Figure:
    """A panel a model: the ratio of skip and branch over the layers, of patches and of [CLS] apart."""
    figure, axes = empty(2.9 * len(found) + 0.5, 2.6, 1, len(found), sharey=True)
    for each, (title, one) in zip(axes.flat, found.items(), strict=True):
        for colour, (name, values) in zip(COLOURS, _norm_lines(one).items(), strict=False):
            dashed = "--" if name.endswith("[CLS]") else "-"
            each.plot(values, dashed, color=colour, label=name, marker="o", markersize=3, linewidth=1.2)
        each.axhline(1, color=GRAY, linewidth=0.8)
        each.set_xticks(range(len(one.layers)), short(one.layers), fontsize=6)
        each.set_title(title, fontsize=8)
    axes[0, 0].set_ylabel("norm of skip / norm of branch", fontsize=7)
    axes[0, 0].legend(fontsize=6, frameon=False)
    return figure


def _norm_lines(found: NormRatios) -> dict[str, Float[np.ndarray, "layer"]]:
    lines = {}
    for name, values in (("attention", found.attention), ("feed-forward", found.feed_forward)):
        lines[f"{name}, patches"] = values[:, found.specials :].mean(1).numpy()
        if found.specials:
            lines[f"{name}, [CLS]"] = values[:, 0].numpy()
    return lines


def head_sheet(found: HeadMaps, image: Image.Image, side: int = 128) -> Image.Image:
    """A line a layer and a column a head, each map over the image, stretched to its own range.

    A green frame shows the patch that looks.

    Raises:
        ValueError: a side of less than 16 pixels.
    """
    large = image.convert("RGB").resize(_fitted(image.size, side), Image.Resampling.BICUBIC)
    lines = [
        [
            Tile(_framed(overlay(large, scaled(each)), found), f"peak {float(each.max()):.2g}")
            for each in heads
        ]
        for heads in found.maps
    ]
    place = "[CLS]" if found.query is None else f"patch {found.query[0]}, {found.query[1]}"
    return sheet(
        lines,
        row_labels=[f"layer {name}" for name in short(found.layers)],
        column_labels=[f"head {head}" for head in range(found.maps.shape[1])],
        title=f"{found.model}: where {place} looks",
        side=side,
    )


def _framed(picture: Image.Image, found: HeadMaps) -> Image.Image:
    if found.query is not None:
        high, wide = picture.height / found.maps.shape[2], picture.width / found.maps.shape[3]
        row, column = found.query
        corners = (column * wide, row * high, (column + 1) * wide - 1, (row + 1) * high - 1)
        ImageDraw.Draw(picture).rectangle(corners, outline=_QUERY, width=2)
    return picture


def position_sheet(found: Embeddings, side: int = 512) -> Image.Image:
    """A small map for every patch, laid out as the patches are: how alike its position is to all others.

    Cosines from -1 (blue) over 0 (black) to 1 (sand). A large grid is thinned out to at most 16 a side.
    """
    rows, columns = found.similarity.shape[:2]
    kept = found.similarity[:: -(-rows // 16), :: -(-columns // 16)]
    page = np.full((_tiled(kept.shape[0], rows), _tiled(kept.shape[1], columns), 3), 255, dtype=np.uint8)
    for row, column in np.ndindex(*kept.shape[:2]):
        top, left = row * (rows + 1) + 1, column * (columns + 1) + 1
        page[top : top + rows, left : left + columns] = diverging(kept[row, column].numpy())
    return _enlarged(page, side)


def filter_sheet(found: Embeddings, across: int = 7, side: int = 448) -> Image.Image:
    """The principal filters of the patch embedding, the strongest first, gray for 0."""
    count, height, width = len(found.filters), *found.filters.shape[2:]
    down = -(-count // across)
    page = np.full((_tiled(down, height), _tiled(across, width), 3), 255, dtype=np.uint8)
    for place, each in enumerate(found.filters):
        top, left = (place // across) * (height + 1) + 1, (place % across) * (width + 1) + 1
        page[top : top + height, left : left + width] = _filter(each)
    return _enlarged(page, side)


def _filter(values: Float[Tensor, "colour height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours as they are where there are three of them; else the mean of all."""
    shown = values if len(values) == 3 else values.mean(0, keepdim=True).expand(3, -1, -1)
    level = 0.5 + 0.5 * shown / shown.abs().max().clamp(min=1e-30)
    return (level.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()


def _tiled(count: int, size: int) -> int:
    return count * (size + 1) + 1


def _enlarged(page: UInt8[np.ndarray, "height width 3"], side: int) -> Image.Image:
    factor = max(1, side // max(page.shape[:2]))
    image = Image.fromarray(page)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
