"""Sheets of the cases in which a method did best and worst, beside what other methods showed there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..explain import Relevance
from ..explain.evaluation.comparison import Comparison
from ..explain.evaluation.study import Asked, Batch, Test
from ..explain.picture import strips
from ..pictures import Tile, sheet
from .explain_methods import Outcome

CASES, SIDE = 4, 128
"""So many best and so many worst cases, each map so many pixels wide."""


def cases(values: np.ndarray, count: int = CASES) -> tuple[list[int], list[int]]:
    """The rows of the largest and of the least values, these first; no row is in both."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(-values[known], kind="stable")].tolist()
    size = min(count, len(order) // 2)
    return order[:size], order[::-1][:size]


def cases_sheet(
    outcome: Outcome, test: Test, compared: Comparison, methods: Sequence[str]
) -> Image.Image | None:  # fmt: skip
    """The first method's best cases above its worst ones; None where there is nothing to see.

    Args:
        compared: what the test measured of every row.
        methods: shown beside each other, controls among them.
    """
    best, worst = cases(compared.rows[methods[0]])
    if not best:
        return None
    numbers = items(outcome, test)
    asked = outcome.study.asked([numbers[row] for row in (*best, *worst)])
    lines: list[Sequence[Tile | Image.Image | None]] = []
    labels: list[str] = []
    for place, row in enumerate((*best, *worst)):
        own = _lines(asked, place, {method: float(compared.rows[method][row]) for method in methods})
        name = f"best {place + 1}" if place < len(best) else f"worst {place - len(best) + 1}"
        lines += own
        labels += [name, *[""] * (len(own) - 1)]
    title = f"{outcome.study.name}, {test.name}: best and worst cases of {methods[0]} by {compared.figure}"
    return sheet(lines, title=title, column_labels=["", *methods], row_labels=labels, side=SIDE)


def items(outcome: Outcome, test: Test) -> list[int]:
    """The number in the data of every row that the test's table is of."""
    return [
        int(record["item"])
        for record in outcome.records
        if record.get("correct") or not test.correct_only
    ]  # fmt: skip


def _lines(asked: Asked, row: int, values: dict[str, float]) -> list[Sequence[Tile | Image.Image | None]]:
    """A case: its picture and every method's map with the figure, and under these words and regions."""
    shown = Tile(_picture(asked.batch, row), _title(asked.batch, row))
    under = {name: _stacked([line[0] for line in strips(asked.found[name], [row], SIDE)]) for name in values}
    if all(asked.found[name].image is None for name in values):
        return [[shown, *(_captioned(under[name], value) for name, value in values.items())]]
    maps = [_map(asked.found[name], shown.image, row, value) for name, value in values.items()]
    first: list[Sequence[Tile | Image.Image | None]] = [[shown, *maps]]
    return [*first, [None, *under.values()]] if any(under.values()) else first


def _stacked(parts: Sequence[Image.Image]) -> Image.Image | None:
    """Words above regions."""
    if not parts:
        return None
    gap = SIDE // 16
    whole = Image.new("RGB", (SIDE, sum(part.height + gap for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + gap
    return whole


def _captioned(image: Image.Image | None, value: float) -> Tile | None:
    return None if image is None else Tile(image, f"{value:.2g}")


def _picture(batch: Batch, row: int) -> Image.Image:
    if batch.pictures is None:
        return Image.new("RGB", (SIDE, 1), "white")
    image = batch.pictures[row]
    scale = max(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _title(batch: Batch, row: int) -> str:
    return batch.titles[row] if batch.titles else f"item {batch.items[row]}"


def _map(found: Relevance, picture: Image.Image, row: int, value: float) -> Tile | None:
    return _captioned(None if found.image is None else found.overlay(picture, row), value)
