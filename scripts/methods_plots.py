"""Plots of what methods were compared by: bars with intervals, curves, agreement, spreads."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ..explain.evaluation import CONTROLS, Estimate, Table
from ..explain.evaluation.attack import QUANTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Lines = Mapping[str, Sequence[tuple[float, Estimate]]]
"""By name the points of a line: where, and what was measured there."""
COLOURS: Final = ("#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0", "#00b25d", "#7a4a1e", "#5b2a86")
_GRAY, _PLAIN, _INK = "#9a9aa2", "#4053d3", "#1c1c20"
_DASHES: Final = ((0, (1, 1)), (0, (4, 2)), (0, (4, 1, 1, 1)), (0, (2, 2)))
_LEVELS: Final = 96
"""Colours in a file: plots have few, and the page they stand on should load at once."""


def bars(panels: Mapping[str, Mapping[str, Estimate]], order: Sequence[str], across: int = 5) -> Figure:
    """A panel a test, in it a bar with its interval for every method in this order, the first on top.

    Args:
        across: so many panels stand beside each other.
    """
    rows = -(-len(panels) // across)
    wide = min(across, len(panels))
    drawn, every = _empty(1.6 + 1.7 * wide, rows * (0.7 + 0.14 * len(order)), rows, wide)
    for axes, (title, found) in zip(every, panels.items(), strict=False):
        for place, name in enumerate(reversed(order)):
            if name in found and math.isfinite(found[name].value):
                colour = _GRAY if name in CONTROLS else _PLAIN
                axes.barh(place, found[name].value, color=colour, height=0.7, alpha=0.85)
                reach = _reach(found[name])
                axes.errorbar(found[name].value, place, xerr=reach, color=_INK, capsize=1.5, linewidth=0.8)
        axes.set_title(title.replace(": ", "\n", 1), fontsize=7)
        axes.set_yticks(range(len(order)), order[::-1], fontsize=6)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.tick_params(axis="x", labelsize=6)
        axes.axvline(0, color=_INK, linewidth=0.6)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    return drawn


def curves(panels: Mapping[str, Lines], across: str, up: str) -> Figure:
    """Lines with bands of their intervals, a panel each; controls are gray and dashed."""
    drawn, every = _empty(3.0 * len(panels) + 1.4, 2.6, 1, len(panels))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for each, (title, lines) in zip(every, panels.items(), strict=True):
        for name, points in lines.items():
            places = [place for place, _ in points]
            style = _style(name, names)
            each.plot(places, [found.value for _, found in points], label=name, linewidth=1.4, **style)
            low, high = zip(*((found.low, found.high) for _, found in points), strict=True)
            if np.isfinite([*low, *high]).all():
                each.fill_between(places, low, high, color=style["color"], alpha=0.12, linewidth=0)
        each.set_title(title, fontsize=9)
        each.set_xlabel(across, fontsize=8)
    drawn.axes[0].set_ylabel(up, fontsize=8)
    drawn.axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return drawn


def matrix(table: Table, figure: str = "Spearman") -> Figure:
    """How far every two methods agree, from a table whose methods are pairs "a ~ b"."""
    pairs = {
        tuple(entry.method.split(" ~ ")): entry.value for entry in table.entries if entry.figure == figure
    }
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    values = np.eye(len(names))
    for (one, other), value in pairs.items():
        row, column = names.index(one), names.index(other)
        values[row, column] = values[column, row] = value
    drawn, (axes,) = _empty(1.2 + 0.24 * len(names), 0.9 + 0.24 * len(names))
    axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for row, column in np.ndindex(values.shape):
        shown = values[row, column]
        if row != column and math.isfinite(shown):
            ink = "white" if abs(shown) > 0.6 else _INK
            text = f"{shown:.1f}".replace("0.", ".").replace("-.0", ".0")
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=ink)
    axes.spines[:].set_visible(False)
    return drawn


def spread(rows: Mapping[str, np.ndarray], across: str) -> Figure:
    """A line each from the quantile .1 to .9, thick from .25 to .75, with a mark at the median."""
    drawn, (axes,) = _empty(5.2, 0.7 + 0.17 * len(rows))
    for place, (name, values) in enumerate(list(rows.items())[::-1]):
        ends = np.quantile(values[np.isfinite(values)], QUANTILES)
        colour = _GRAY if name in CONTROLS else _PLAIN
        axes.plot(ends[[0, 4]], [place] * 2, color=colour, linewidth=1)
        axes.plot(ends[[1, 3]], [place] * 2, color=colour, linewidth=5, alpha=0.6, solid_capstyle="butt")
        axes.plot(ends[2], place, "o", color=_INK, markersize=3)
    axes.set_yticks(range(len(rows)), list(rows)[::-1], fontsize=7)
    axes.axvline(0, color=_INK, linewidth=0.6)
    axes.set_xlabel(across, fontsize=8)
    return drawn


def save(figure: Figure, path: Path) -> Path:
    """Write a small PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", facecolor="white")
    with Image.open(buffer) as image:
        few = image.convert("RGB").quantize(_LEVELS, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    return path


def _empty(width: float, height: float, rows: int = 1, across: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, in inches, with so many panels that share what goes up."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    drawn.subplots(rows, across, sharey=True)
    for each in drawn.axes:
        each.tick_params(labelsize=7)
        each.spines[["top", "right"]].set_visible(False)
    return drawn, list(drawn.axes)


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    if name in CONTROLS:
        return {"color": _GRAY, "linestyle": _DASHES[CONTROLS.index(name) % len(_DASHES)]}
    methods = [one for one in names if one not in CONTROLS]
    return {"color": COLOURS[methods.index(name) % len(COLOURS)]}


def _reach(found: Estimate) -> list[list[float]]:
    """How far the interval goes to both sides; nowhere where it is not known."""
    ends = (found.value - found.low, found.high - found.value)
    return [[max(0.0, end) if math.isfinite(end) else 0.0] for end in ends]
