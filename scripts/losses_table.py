"""From the rows of a comparison of losses to the tables of docs/losses.md: who is there, in which colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Final

from .emoji_figures import Row, line, methods_of, paired_difference, percentage, share

MARKS: Final = ("<!-- loss figures: begin -->", "<!-- loss figures: end -->")
PLAIN: Final = "plain"
Columns = dict[str, Callable[[str, Sequence[Row]], str]]
"""By its title, what a cell says of a method, given its name and its rows."""


def binding(rows: Sequence[Row]) -> tuple[int, int]:
    """How many coloured objects are in their own colour, of those that are seen in whatever colour."""
    seen = [
        right
        for row in rows
        for (name, there), (label, right) in zip(row["seen"].items(), row["in_colour"].items(), strict=True)
        if label != name and there
    ]
    return sum(seen), len(seen)


def coloured(rows: Sequence[Row]) -> list[Row]:
    """The rows whose prompts name a colour."""
    return [row for row in rows if list(row["seen"]) != list(row["in_colour"])]


def ranked(rows: Sequence[Row], names: Sequence[str], count: int) -> list[str]:
    """The `count` methods that show all subjects most often, the best first; plain sampling apart."""
    rates = {
        name: fmean(row["all_seen"] for row in rows if row["method"] == name)
        for name in names
        if name != PLAIN
    }
    return sorted(rates, key=lambda name: -rates[name])[:count]


def main_table(rows: Sequence[Row], titles: Mapping[str, str], default: str) -> str:
    """Markdown: a line a method, on the held-out pairs; the best first, plain sampling at the head."""
    own = [row for row in rows if row["set"] == "held-out"]
    columns: Columns = {
        "what is wanted": lambda name, mine: titles[name],
        "all subjects seen, %": lambda name, mine: share(mine, "all_seen"),
        "against plain, points": lambda name, mine: _difference(own, name, PLAIN),
        f"against `{default}`, points": lambda name, mine: _difference(own, name, default),
        "and nothing else, %": lambda name, mine: share(mine, "exact"),
        **_COLOURS,
        "UNet forwards": lambda name, mine: f"{fmean(row['forwards'] for row in mine):.1f}",
    }
    return _table(own, titles, columns)


def further_table(rows: Sequence[Row], titles: Mapping[str, str], group: str) -> str:
    """Markdown: a line a method on another set of prompts; the best first, plain sampling at the head."""
    own = [row for row in rows if row["set"] == group]
    columns: Columns = {
        "all subjects seen, %": lambda name, mine: share(mine, "all_seen"),
        "against plain, points": lambda name, mine: _difference(own, name, PLAIN),
        "each subject seen, %": lambda name, mine: percentage(*_subjects(mine)),
        **_COLOURS,
    }
    return _table(own, titles, columns)


def report(rows: Sequence[Row], titles: Mapping[str, str], default: str, settings: Mapping[str, str]) -> str:
    """The whole text between the marks of docs/losses.md."""
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    parts = [f"Settings: {told}.", "Held-out pairs:", main_table(rows, titles, default)]
    for group, title in (
        ("three", "Three subjects, a held-out pair among them:"),
        ("coloured", "Held-out pairs in which every object has a colour:"),
    ):
        if any(row["set"] == group for row in rows):
            parts += [title, further_table(rows, titles, group)]
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], titles: Mapping[str, str], columns: Columns) -> str:
    present = methods_of(rows, dict(titles))
    lines = [line(["name", *columns]), line(["---"] * (len(columns) + 1))]
    for name in [*(name for name in present if name == PLAIN), *ranked(rows, present, len(present))]:
        mine = [row for row in rows if row["method"] == name]
        lines.append(line([f"`{name}`", *(cell(name, mine) for cell in columns.values())]))
    return "\n".join(lines)


def _subjects(rows: Sequence[Row]) -> tuple[int, int]:
    """How many of all subjects of all prompts are seen, and how many there are."""
    found = [there for row in rows for there in row["seen"].values()]
    return sum(found), len(found)


def _difference(rows: Sequence[Row], name: str, other: str) -> str:
    if name == other:
        return ""
    found = paired_difference(rows, name, other, "all_seen")
    if found is None:
        return ""
    middle, low, high = (100 * value for value in found)
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


_COLOURS: Final[Columns] = {
    "coloured objects that are seen, in their colour, %": lambda name, mine: percentage(*binding(mine)),
    "all in their colours, %": lambda name, mine: share(coloured(mine), "all_in_colour"),
}
