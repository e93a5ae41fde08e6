"""Draws what the layers of two models have in common, how far they look, and what their tokens hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from .plots import COLOURS, GRAY, INK, empty, is_dark, png, save, short
from .probes import Probes
from .similarity import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["heatmap", "heatmaps", "lines", "png", "probe_lines", "save"]


def heatmap(found: Similarity, title: str = "") -> Figure:
    """One matrix of CKA: the first model's layers upwards, the second's to the right."""
    return heatmaps({title: found})


def heatmaps(found: Mapping[str, Similarity]) -> Figure:
    """Several matrices beside each other on one scale of colours, 0 to 1, each with its title."""
    sizes = [each.cka.shape for each in found.values()]
    wide = sum(0.42 * columns + 1.3 for _, columns in sizes)
    tall = 0.42 * max(rows for rows, _ in sizes) + 1.4
    figure, axes = empty(wide, tall, 1, len(sizes), width_ratios=[columns + 3 for _, columns in sizes])
    for each, (title, one) in zip(axes.flat, found.items(), strict=True):
        _matrix(each, one.cka.numpy(), one)
        each.set_title(title, fontsize=8)
    return figure


def _matrix(axes: Axes, values: Float[np.ndarray, "first second"], found: Similarity) -> None:
    axes.imshow(values, origin="lower", cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(values.shape):
        if np.isfinite(values[row, column]):
            ink = "white" if is_dark(float(values[row, column])) else INK
            text = f"{values[row, column]:.2f}".replace("0.", ".", 1)
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=ink)
    first, second = (short(names) for names in found.layers)
    axes.set_yticks(range(len(first)), first, fontsize=6)
    axes.set_xticks(range(len(second)), second, fontsize=6, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_ylabel(found.models[0], fontsize=7)
    axes.set_xlabel(found.models[1], fontsize=7)
    axes.spines[:].set_visible(False)


def probe_lines(found: Mapping[str, Probes]) -> Figure:
    """What linear probes read off each layer, a panel a model, with chance in gray."""
    panels, layers = {}, {}
    for title, one in found.items():
        layers[title] = tuple(dict.fromkeys(name for own in one.accuracy.values() for name in own))
        panels[title] = {
            reads: [(each.value, each.low, each.high) for each in own.values()]
            for reads, own in one.accuracy.items()
        } | {"chance": [(one.chance,) * 3] * len(layers[title])}
    return lines(panels, layers, "accuracy of a linear probe")


def lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    layers: Mapping[str, tuple[str, ...]],
    up: str,
) -> Figure:
    """A panel a model, in it for every name a line over the layers with its intervals.

    Args:
        panels: by title and name the value and the ends of its interval, layer by layer; NaN for none.
        layers: by title the layers' names.
        up: what the values are.
    """
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    figure, axes = empty(3.2 * len(panels) + 0.6, 2.9, 1, len(panels), sharey=True)
    for each, (title, own) in zip(axes.flat, panels.items(), strict=True):
        for name, points in own.items():
            value, low, high = np.array(points, dtype=float).T
            colour = GRAY if name == "chance" else COLOURS[names.index(name) % len(COLOURS)]
            each.plot(value, "o-", color=colour, label=name, linewidth=1.4, markersize=3)
            each.fill_between(range(len(value)), low, high, color=colour, alpha=0.15, linewidth=0)
        each.set_xticks(range(len(layers[title])), short(layers[title]), fontsize=6, rotation=60, ha="right")
        each.set_title(title, fontsize=8)
        each.legend(fontsize=6, frameon=False)
    axes[0, 0].set_ylabel(up, fontsize=8)
    return figure
