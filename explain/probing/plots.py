"""matplotlib for the plots of probing: a figure without a screen, and small files that stay the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: Final = ("#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0", "#00b25d", "#7a4a1e", "#5b2a86")
INK, GRAY = "#1c1c20", "#9a9aa2"
_LEVELS: Final = 128
"""Colours in a file: plots have few."""


def empty(width: float, height: float, down: int = 1, across: int = 1, **settings: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes as an array (down, across).

    Raises:
        InputError: where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise InputError(
            'plots are drawn by matplotlib, which is not installed: pip install "heedful[probe]"'
        ) from problem
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **settings)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=7)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a small PNG; the same figure gives the same bytes."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=110, facecolor="white")
    with Image.open(raw) as image:
        few = image.convert("RGB").quantize(_LEVELS, dither=Image.Dither.NONE)
        few.save(small, "png", optimize=True)
    return small.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure as a small PNG."""
    Path(path).write_bytes(png(figure))
    return Path(path)


def short(names: tuple[str, ...]) -> list[str]:
    """Names of modules without what all of them begin with, and without words that say nothing."""
    parts = [name.split(".") for name in names]
    same = 0
    while all(len(part) > same + 1 for part in parts) and len({part[same] for part in parts}) == 1:
        same += 1
    return [
        ".".join(word for word in part[same:] if word not in ("layers", "layer", "encoder")) for part in parts
    ]


def is_dark(value: float) -> bool:
    """Whether dark ink cannot be read on the viridis colour of a value in 0..1."""
    return value < 0.55
