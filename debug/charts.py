"""Lines over steps as geometry for a small SVG: a template draws it, so it follows the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 30
_PLACES = 1


@dataclass(frozen=True)
class Series:
    """One line: its name, and a value at each of its steps (counted from 0); NaN leaves a gap."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(f"wanted a value a step, got {len(self.values)} for {len(self.steps)} steps")


@dataclass(frozen=True)
class Line:
    """A series on the paper: the path of an SVG, its points as (x, y), and the last value for a label."""

    name: str
    path: str
    points: tuple[tuple[float, float], ...]
    last: float


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, in SVG units, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart as a template draws it; all places are SVG units within (width, height)."""

    title: str
    width: int
    height: int
    lines: tuple[Line, ...]
    columns: tuple[Tick, ...]
    rows: tuple[Tick, ...]
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    floor: int = HEIGHT - BOTTOM


def line_chart(
    title: str, series: Sequence[Series], *, steps: int, least_top: float = 0.0, height: int = HEIGHT
) -> Chart | None:
    """Lines over the steps 1..steps, from 0 to the largest value; None where no value is finite.

    Args:
        title: what is shown.
        series: the lines; the first is drawn dashed where there are several.
        steps: how many steps the axis has.
        least_top: the axis reaches at least this high.
        height: of the drawing, in its own units; it is 560 wide.
    """
    finite = [value for one in series for value in one.values if math.isfinite(value)]
    if not finite:
        return None
    top = ceiling(max([*finite, least_top]))
    last = max(steps - 1, 1)
    floor = height - BOTTOM

    def place(step: int, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return round(across, _PLACES), round(floor - (floor - TOP) * value / top, _PLACES)

    marks = sorted({0, *(step for step in range(steps) if (step + 1) % _stride(steps) == 0), steps - 1})
    return Chart(
        title,
        WIDTH,
        height,
        tuple(_line(one, place) for one in series if any(map(math.isfinite, one.values))),
        tuple(Tick(place(step, 0)[0], str(step + 1)) for step in _apart(marks, steps)),
        tuple(Tick(place(0, value)[1], f"{value:.3g}") for value in _levels(top)),
        floor=floor,
    )


def ceiling(value: float) -> float:
    """The least 1, 2, 4 or 5 times a power of ten that is not under the value; 1 if that is 0 or less."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 4, 5) if step * power >= value * (1 - 1e-9)), 10 * power)


def _levels(top: float) -> list[float]:
    """Four or five equal parts of the axis, such that their marks are short numbers."""
    parts = 5 if f"{top:.0e}"[0] in "15" else 4
    return [top * part / parts for part in range(parts + 1)]


def _line(series: Series, place: object) -> Line:
    assert callable(place)
    points, path, pen = [], [], "M"
    for step, value in zip(series.steps, series.values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = place(step, value)
        points.append((x, y))
        path.append(f"{pen}{x:g} {y:g}")
        pen = "L"
    last = next(value for value in reversed(series.values) if math.isfinite(value))
    return Line(series.name, " ".join(path), tuple(points), last)


def _stride(steps: int) -> int:
    return next((stride for stride in (1, 2, 5, 10, 20, 50, 100) if steps <= 10 * stride), 200)


def _apart(marks: Sequence[int], steps: int) -> list[int]:
    """Without marks that would run into the last one."""
    room = max(1, _stride(steps) // 2)
    return [mark for mark in marks if mark == steps - 1 or steps - 1 - mark >= room]
