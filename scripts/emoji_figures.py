"""From the rows of an evaluation to shares with intervals, and to the table that is published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any, Final

import numpy as np

Row = dict[str, Any]
BEGIN, END = "<!-- emoji figures: begin -->", "<!-- emoji figures: end -->"
GROUPS: Final[tuple[tuple[str, str], ...]] = (
    ("pairs", "all pairs"),
    ("held-out", "held-out pairs"),
    ("seen", "seen pairs"),
    ("single", "single subject"),
)


def wilson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share by Wilson (1927): centre (p + z^2/2n) / (1 + z^2/n), clipped to 0..1.

    Raises `ValueError` without a trial.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"wanted hits of at least one trial; got {hits} of {count}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    rows: Sequence[Row], method: str, other: str, key: str, draws: int = 10_000
) -> tuple[float, float, float] | None:
    """How much larger a method's share is than another's on the same prompts and seeds, with a 95 % interval.

    Bootstrap over prompts (the seeds of one prompt stay together), percentiles 2.5 and 97.5. None if they
    have no prompt and seed in common.
    """
    hits = {
        name: {(r["prompt"], r["seed"]): bool(r[key]) for r in rows if r["method"] == name}
        for name in (method, other)
    }
    prompts: dict[str, list[int]] = {}
    for place in sorted(hits[method].keys() & hits[other].keys()):
        prompts.setdefault(place[0], []).append(hits[method][place] - hits[other][place])
    if not prompts:
        return None
    sums = np.array([sum(values) for values in prompts.values()])
    counts = np.array([len(values) for values in prompts.values()])
    chosen = np.random.default_rng(0).integers(len(sums), size=(draws, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def in_group(row: Row, group: str) -> bool:
    """Whether a row counts for a column: "pairs", "held-out", "seen" or "single"."""
    if group == "pairs":
        return row["set"] != "single"
    return row["set"] == group


def table(rows: Sequence[Row], titles: dict[str, str], key: str = "all_seen") -> str:
    """Markdown: a line a method, a column a group, each share with its Wilson interval and count."""
    groups = [(group, title) for group, title in GROUPS if any(in_group(row, group) for row in rows)]
    lines = [line(["method", *(title for _, title in groups), "UNet forwards an image"])]
    lines.append(line(["---"] * (len(groups) + 2)))
    for method in methods_of(rows, titles):
        own = [row for row in rows if row["method"] == method]
        cells = [share([row for row in own if in_group(row, group)], key) for group, _ in groups]
        pairs = [row["forwards"] for row in own if in_group(row, "pairs")]
        lines.append(line([titles[method], *cells, f"{fmean(pairs):.1f}" if pairs else ""]))
    return "\n".join(lines)


def differences(rows: Sequence[Row], titles: dict[str, str], key: str = "all_seen") -> str:
    """Markdown: each method against each before it, over all pairs, in percentage points."""
    pairs = [row for row in rows if in_group(row, "pairs")]
    methods = methods_of(pairs, titles)
    lines = [line(["difference on all pairs", "percentage points", "95 % interval"]), line(["---"] * 3)]
    for index, method in enumerate(methods):
        for other in methods[:index]:
            found = paired_difference(pairs, method, other, key)
            if found is not None:
                middle, low, high = (100 * value for value in found)
                name = f"{titles[method]} against {titles[other]}"
                lines.append(line([name, f"{middle:+.1f}", f"{low:+.1f} to {high:+.1f}"]))
    return "\n".join(lines)


def report(rows: Sequence[Row], titles: dict[str, str], settings: dict[str, Any]) -> str:
    """The whole text between the marks of docs/benchmarks.md."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return "\n\n".join(
        [
            f"Settings: {told}.",
            "Share of images in which the judge sees **all** subjects of the prompt:",
            table(rows, titles),
            differences(rows, titles),
            "The same, where a coloured object must be seen in its colour:",
            table(rows, titles, "all_in_colour"),
            "And where nothing else must be seen either:",
            table(rows, titles, "exact"),
        ]
    )


def write_between_marks(file: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put text between the marks of a document, in the place of what stood there.

    Raises `ValueError` if the document does not have both marks, in their order.
    """
    document = file.read_text(encoding="utf-8")
    before, begin, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"{file} must hold the marks {' and '.join(marks)}, each on a line of its own")
    file.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}", encoding="utf-8")


def methods_of(rows: Iterable[Row], titles: dict[str, str]) -> list[str]:
    """The methods that have rows, in the order of the titles."""
    present = {row["method"] for row in rows}
    return [method for method in titles if method in present]


def share(rows: Sequence[Row], key: str) -> str:
    """The percentage of rows in which `key` is true, as a cell."""
    return percentage(sum(bool(row[key]) for row in rows), len(rows))


def percentage(hits: int, count: int) -> str:
    """A share in percent with its Wilson interval, as a cell; an empty one where nothing was tried."""
    if not count:
        return ""
    low, high = wilson(hits, count)
    return f"**{100 * hits / count:.1f}** ({100 * low:.1f}-{100 * high:.1f}), n {count}"


def line(cells: Sequence[str]) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(cells)} |"
