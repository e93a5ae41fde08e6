"""From the rows of an evaluation to shares with intervals, and to the table that is published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Final

import numpy as np
from heedful.explain.evaluation import intervals

Row = dict[str, Any]
MARKS: Final = ("<!-- emoji figures: begin -->", "<!-- emoji figures: end -->")
GROUPS: Final[tuple[tuple[str, str], ...]] = (
    ("pairs", "all pairs"),
    ("held-out", "held-out pairs"),
    ("seen", "seen pairs"),
    ("single", "single subject"),
)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, see `explain.evaluation.intervals.wilson`.

    Raises `ValueError` without a trial.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"wanted hits of at least one trial; got {hits} of {count}")
    found = intervals.wilson(hits, count)
    return found.low, found.high


def paired_difference(
    rows: Sequence[Row], method: str, other: str, key: str
) -> tuple[float, float, float] | None:
    """How much larger a method's share is than another's on the same prompts and seeds, with a 95 % interval.

    Bootstrap over prompts: the seeds of one prompt stay together. None if they have no prompt and seed in
    common.
    """
    hits = {
        name: {(r["prompt"], r["seed"]): bool(r[key]) for r in rows if r["method"] == name}
        for name in (method, other)
    }
    places = sorted(hits[method].keys() & hits[other].keys())
    if not places:
        return None
    own, others = (np.array([hits[name][place] for place in places], float) for name in (method, other))
    found = intervals.paired(own, others, [prompt for prompt, _ in places])
    return found.value, found.low, found.high


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
