"""Success against cost, with intervals: what each method buys for what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..explain.evaluation.intervals import Estimate
from .best_of import CHOSEN_BY, best_of, candidates
from .figures import COST, MAIN, SINGLE, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0", "#00b25d", "#7a4a1e", "#5b2a86")
_MARKS: Final = "osD^vP*X"
_INK, _GRAY = "#1c1c20", "#9a9aa2"
_LINES: Final = {"check": "-", "judge": "--"}


def success_against_cost(results: Results) -> Figure:
    """A panel for each group but singles: all-subjects rate up, cost across, best-of-N as lines.

    Between two whole N the line is what mixing them gives.
    """
    from matplotlib.figure import Figure

    groups = [group for group in results.groups if group != SINGLE] or list(results.groups)
    drawn = Figure(figsize=(max(5.2, 3.6 * len(groups)), 4.8), layout="constrained")
    panels = drawn.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        _panel(axes, results.of(group))
        axes.set_title(group, fontsize=9)
        axes.set_xlabel("cost, in plain images", fontsize=8)
    panels[0].set_ylabel("images with all subjects, %", fontsize=8)
    keys, names = panels[-1].get_legend_handles_labels()  # below: what a method is can be a sentence
    drawn.legend(keys, names, fontsize=7, frameon=False, loc="outside lower left")
    return drawn


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, facecolor="white")
    return path


def _panel(axes: Axes, own: Results) -> None:
    among = candidates(own.rows)
    for by in CHOSEN_BY:
        if len(among) > 1 and (by == "judge" or "check" in among[0][0]):
            found = [
                own.estimate(best_of(among, number, by, lambda record: float(record["all"])))
                for number in range(1, len(among) + 1)
            ]
            _line(axes, found, f"best of N by {by}", _LINES[by])
    for place, name in enumerate(own.methods):
        cost, rate = own.estimate(own.values(name, COST), rate=False), own.estimate(own.values(name, MAIN))
        if math.isfinite(cost.value):
            _point(axes, cost, rate, own.about.get(name, name), place)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)


def _line(axes: Axes, found: Sequence[Estimate], label: str, style: str) -> None:
    across = range(1, len(found) + 1)
    axes.plot(across, [100 * one.value for one in found], style, color=_GRAY, label=label, linewidth=1.2)
    low, high = ([100 * getattr(one, end) for one in found] for end in ("low", "high"))
    if all(map(math.isfinite, (*low, *high))):
        axes.fill_between(across, low, high, color=_GRAY, alpha=0.1, linewidth=0)


def _point(axes: Axes, cost: Estimate, rate: Estimate, label: str, place: int) -> None:
    colour = _INK if place == 0 else COLOURS[(place - 1) % len(COLOURS)]
    axes.errorbar(
        cost.value, 100 * rate.value, xerr=_reach(cost, 1), yerr=_reach(rate, 100), label=label, color=colour,
        marker=_MARKS[place % len(_MARKS)], markersize=5, capsize=2, linewidth=1, linestyle="none",
    )  # fmt: skip


def _reach(found: Estimate, scale: float) -> list[list[float]] | None:
    """How far the interval goes below and above; None where it is everything."""
    ends = (found.value - found.low, found.high - found.value)
    return [[scale * max(0.0, end)] for end in ends] if all(map(math.isfinite, ends)) else None
