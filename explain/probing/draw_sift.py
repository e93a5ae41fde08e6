"""Draws keypoints, the heads that look at them, and what an answer rests on besides the subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from ...pictures.draw import PAPER, Tile, overlay, scaled, sheet
from .plots import COLOURS, GRAY, INK, empty, png, save
from .removal import Removal
from .sift import Concentration
from .sift_attention import SiftAttention
from .spurious import Spurious

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "entropy_lines", "head_maps", "keypoint_image", "keypoint_sheet", "png", "save", "spurious_sheet",
]  # fmt: skip
SIDE = 192
LEVEL = 0.05


def keypoint_image(image: Image.Image, points: Float[np.ndarray, "_ 4"], side: int = SIDE) -> Image.Image:
    """The image, enlarged to `side` pixels, with a circle around each keypoint, as wide as its scale."""
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    found = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(found)
    for x, y, diameter, _ in points * scale:
        box = (x - diameter / 2, y - diameter / 2, x + diameter / 2, y + diameter / 2)
        pen.ellipse(box, outline=(0, 0, 0), width=3)
        pen.ellipse(box, outline=(255, 255, 255), width=1)
    return found


def keypoint_sheet(images: Sequence[Image.Image], keypoints: Concentration) -> Image.Image:
    """A column an image: its keypoints, and under them how they concentrate in patches."""
    large = [keypoint_image(image, own) for image, own in zip(images, keypoints.points, strict=True)]
    counted = [_patches(image, each) for image, each in zip(images, keypoints.count, strict=True)]
    captions = [
        Tile(image, f"{int(each.sum())} keypoints, at most {int(each.max())} in a patch")
        for image, each in zip(counted, keypoints.count, strict=True)
    ]
    return sheet([large, captions], side=SIDE, row_labels=["keypoints", "concentration"])


def head_maps(found: Mapping[str, SiftAttention], statistic: str = "from [CLS]") -> Figure:
    """A panel a model, layers by heads: the attention to keypoints over chance, on a scale of doublings.

    A dot marks a head that differs from chance, adjusted for looking at all heads of its model.
    """
    shown = {title: one for title, one in found.items() if statistic in one.ratios}
    figure, axes = empty(2.5 * len(shown) + 0.7, 2.9, 1, len(shown))
    for each, (title, one) in zip(axes.flat, shown.items(), strict=True):
        drawn = _heads(each, one, statistic)
        each.set_title(title, fontsize=8)
    axes[0, 0].set_ylabel("layer", fontsize=8)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
    bar.set_label(f"attention {statistic}, times chance", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def _heads(axes: Axes, found: SiftAttention, statistic: str) -> AxesImage:
    ratio, adjusted = found.ratio(statistic).numpy(), found.tested(statistic)[2].numpy()
    doublings = np.log2(np.maximum(ratio, 1e-3))
    from matplotlib import colormaps

    few = colormaps["RdBu_r"].resampled(16)  # a file has few colours
    drawn = axes.imshow(doublings, cmap=few, vmin=-2, vmax=2, origin="lower", aspect="auto")
    for layer, head in np.ndindex(ratio.shape):
        ink = "white" if abs(doublings[layer, head]) > 1.3 else INK
        mark = " \u2022" if adjusted[layer, head] < LEVEL else ""
        text = f"{ratio[layer, head]:.1f}{mark}"
        axes.text(head, layer, text, ha="center", va="center", fontsize=6.5, color=ink)
    axes.set_xticks(range(ratio.shape[1]), [str(head) for head in range(ratio.shape[1])])
    axes.set_yticks(range(ratio.shape[0]), [str(layer) for layer in range(ratio.shape[0])])
    axes.set_xlabel("head", fontsize=7)
    axes.spines[:].set_visible(False)
    return drawn


def entropy_lines(found: Mapping[str, SiftAttention]) -> Figure:
    """A panel a model: how spread the attention of patches is over the layers, by their keypoints."""
    from ..evaluation.intervals import mean

    figure, axes = empty(3.0 * len(found) + 0.5, 2.8, 1, len(found), sharey=True)
    for each, (title, one) in zip(axes.flat, found.items(), strict=True):
        values = one.entropy.nanmean(2).double().numpy()
        for place, name in enumerate(one.bins):
            ends = [mean(values[:, layer, place]) for layer in range(values.shape[1])]
            colour = GRAY if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
            each.plot([one_.value for one_ in ends], "o-", color=colour, linewidth=1.4, markersize=3,
                      label=f"{name} keypoints")  # fmt: skip
            low, high = [one_.low for one_ in ends], [one_.high for one_ in ends]
            each.fill_between(range(len(ends)), low, high, color=colour, alpha=0.15, linewidth=0)
        each.set_title(title, fontsize=8)
        each.set_xlabel("layer", fontsize=7)
        each.legend(fontsize=6, frameon=False)
    axes[0, 0].set_ylabel("entropy of a patch's attention, 1 = even", fontsize=7)
    return figure


def spurious_sheet(
    images: Sequence[Image.Image],
    keypoints: Concentration | None,
    found: Spurious,
    asked: Removal,
    rows: Sequence[int] | None = None,
) -> Image.Image:
    """A row an image: its keypoints, its relevance, what is suspicious, and the answer with and without it.

    Args:
        rows: which images (default: the first six with a suspicious patch, else the first two).
    """
    flagged = found.images.nonzero()[:, 0].tolist()
    rows = list(rows) if rows is not None else (flagged[:6] or list(range(min(2, len(images)))))
    table: list[list[Tile | Image.Image | None]] = []
    for row in rows:
        large = keypoint_image(images[row], np.zeros((0, 4)))
        first = large if keypoints is None else keypoint_image(images[row], keypoints.points[row])
        before, after = (_answer(asked, logits[row]) for logits in (asked.before, asked.after))
        table.append(
            [
                Tile(first, "keypoints"),
                Tile(overlay(large, scaled(found.relevance[row])), f"relevance for {found.targets[row]}"),
                Tile(_crossed(large, found.flagged[row]), _share(found, row)),
                Tile(_blanked(large, found.flagged[row]), f"{before}; without: {after}"),
            ]
        )
    return sheet(table, side=SIDE)


def _share(found: Spurious, row: int) -> str:
    if not found.images[row]:
        return "nothing suspicious"
    return f"suspicious: {float(found.share[row]):.0%} of the relevance"


def _answer(asked: Removal, logits: Float[Tensor, "label"]) -> str:
    best = int(logits.argmax())
    return f"{asked.labels[best]} {float(logits.softmax(0)[best]):.2f}"


def _patches(image: Image.Image, values: Float[Tensor, "height width"]) -> Image.Image:
    """Values laid over an image patch by patch, not smoothly."""
    large = keypoint_image(image, np.zeros((0, 4)))
    heat = Image.fromarray(scaled(values)).resize(large.size, Image.Resampling.NEAREST)
    return overlay(large, np.asarray(heat))


def _crossed(image: Image.Image, patches: Bool[Tensor, "height width"]) -> Image.Image:
    """The image, pale but for these patches, which are framed."""
    found = Image.blend(image, Image.new("RGB", image.size, PAPER), 0.55)
    for box in _boxes(image, patches):
        found.paste(image.crop(box), box[:2])
        ImageDraw.Draw(found).rectangle(box, outline=(200, 20, 20), width=3)
    return found


def _blanked(image: Image.Image, patches: Bool[Tensor, "height width"]) -> Image.Image:
    """The image without these patches; the model sees no white there, but nothing."""
    found = image.copy()
    for box in _boxes(image, patches):
        found.paste(PAPER, box)
    return found


def _boxes(image: Image.Image, patches: Bool[Tensor, "height width"]) -> list[tuple[int, int, int, int]]:
    """Where patches lie in the pixels of an image."""
    across, down = image.width / patches.shape[1], image.height / patches.shape[0]
    return [
        (round(column * across), round(row * down), round((column + 1) * across), round((row + 1) * down))
        for row, column in patches.nonzero().tolist()
    ]
