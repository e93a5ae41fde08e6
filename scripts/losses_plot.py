"""Plots success against cost: each way of guiding a point, with the interval of its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from .emoji_figures import Row, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A method's cost, as a multiple of plain sampling's, and its share in percent with its interval."""

    cost: float
    share: float
    low: float
    high: float


def frontier(rows: Sequence[Row], names: Sequence[str], plain: str = "plain") -> Figure:
    """The share of images with all subjects, in percent, over the cost as a multiple of plain sampling's.

    Raises `ValueError` without rows of plain sampling.
    """
    from matplotlib.figure import Figure

    if not any(row["method"] == plain for row in rows):
        raise ValueError(f"the cost is measured by that of {plain!r}, which has no rows; draw it too")
    unit = fmean(row["forwards"] for row in rows if row["method"] == plain)
    points = {name: _point(rows, name, unit) for name in names}
    drawn = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = drawn.subplots()
    for name, place in _labels(points).items():
        found = points[name]
        colour = "#9a9aa2" if name == plain else "#4053d3"
        reach = [[found.share - found.low], [found.high - found.share]]
        axes.errorbar(
            found.cost, found.share, yerr=reach, fmt="o", color=colour, markersize=4, linewidth=0.5, capsize=2
        )
        axes.annotate(name, (found.cost + 0.006, place), fontsize=6, verticalalignment="center")
    axes.set_xlabel("cost over plain sampling's, counted operations of the UNet", fontsize=8)
    axes.set_ylabel("images in which all subjects are seen, %", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


def save(drawn: Figure, file: Path) -> None:
    """Write a plot as a PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(file, dpi=150)


def _point(rows: Sequence[Row], name: str, unit: float) -> Point:
    own = [row for row in rows if row["method"] == name]
    hits = sum(bool(row["all_seen"]) for row in own)
    low, high = wilson(hits, len(own))
    cost = fmean(row["forwards"] for row in own) / unit
    return Point(cost, 100 * hits / len(own), 100 * low, 100 * high)


def _labels(points: Mapping[str, Point], gap: float = 1.1, near: float = 0.04) -> dict[str, float]:
    """How high each name stands: at its point, or pushed up by those below it of about the same cost."""
    placed: dict[str, float] = {}
    for name in sorted(points, key=lambda one: points[one].share):
        beside = [
            high for other, high in placed.items() if abs(points[other].cost - points[name].cost) < near
        ]
        placed[name] = max([points[name].share, *(high + gap for high in beside)])
    return placed
