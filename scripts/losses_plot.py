"""Plots success against cost: each way of guiding a point, with the interval of its share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from .emoji_figures import Row, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frontier(rows: Sequence[Row], names: Sequence[str], plain: str = "plain") -> Figure:
    """The share of images with all subjects, in percent, over the cost as a multiple of plain sampling's.

    Raises `ValueError` without rows of plain sampling.
    """
    from matplotlib.figure import Figure

    if not any(row["method"] == plain for row in rows):
        raise ValueError(f"the cost is measured by that of {plain!r}, which has no rows; draw it too")
    unit = fmean(row["forwards"] for row in rows if row["method"] == plain)
    drawn = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = drawn.subplots()
    for name in names:
        cost, value, low, high = _point(rows, name, unit)
        colour = "#9a9aa2" if name == plain else "#4053d3"
        reach = [[value - low], [high - value]]
        axes.errorbar(cost, value, yerr=reach, fmt="o", color=colour, markersize=4, linewidth=0.6, capsize=2)
        axes.annotate(name, (cost, value), xytext=(4, 3), textcoords="offset points", fontsize=6)
    axes.set_xlabel("cost over plain sampling's, counted operations of the UNet", fontsize=8)
    axes.set_ylabel("images in which all subjects are seen, %", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def save(drawn: Figure, file: Path) -> None:
    """Write a plot as a PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(file, dpi=150)


def _point(rows: Sequence[Row], name: str, unit: float) -> tuple[float, float, float, float]:
    own = [row for row in rows if row["method"] == name]
    hits = sum(bool(row["all_seen"]) for row in own)
    low, high = wilson(hits, len(own))
    cost = fmean(row["forwards"] for row in own) / unit
    return cost, 100 * hits / len(own), 100 * low, 100 * high
