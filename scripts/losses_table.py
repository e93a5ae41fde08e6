"""From the rows of a comparison of losses to the tables of docs/losses.md: who is there, in which colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from .emoji_figures import Row, line, methods_of, paired_difference, percentage, share

MARKS: Final = ("<!-- loss figures: begin -->", "<!-- loss figures: end -->")
PLAIN: Final = "plain"


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
    head = (
        "name",
        "what is wanted",
        "all subjects seen, %",
        "against plain, points",
        f"against `{default}`, points",
        "coloured objects that are seen, in their colour, %",
        "all in their colours, %",
        "UNet forwards",
    )
    lines = [line(head), line(["---"] * len(head))]
    present = methods_of(own, dict(titles))
    first = [name for name in present if name == PLAIN]
    for name in [*first, *ranked(own, present, len(present))]:
        mine = [row for row in own if row["method"] == name]
        lines.append(
            line(
                [
                    f"`{name}`",
                    titles[name],
                    share(mine, "all_seen"),
                    _difference(own, name, PLAIN),
                    _difference(own, name, default),
                    percentage(*binding(mine)),
                    share(coloured(mine), "all_in_colour"),
                    f"{fmean(row['forwards'] for row in mine):.1f}",
                ]
            )
        )
    return "\n".join(lines)


def further_table(rows: Sequence[Row], titles: Mapping[str, str], group: str) -> str:
    """Markdown: a line a method on another set of prompts; the best first, plain sampling at the head."""
    own = [row for row in rows if row["set"] == group]
    head = ("name", "all subjects seen, %", "against plain, points", "each subject seen, %")
    head = (*head, "coloured objects that are seen, in their colour, %", "all in their colours, %")
    lines = [line(head), line(["---"] * len(head))]
    present = methods_of(own, dict(titles))
    first = [name for name in present if name == PLAIN]
    for name in [*first, *ranked(own, present, len(present))]:
        mine = [row for row in own if row["method"] == name]
        subjects = [there for row in mine for there in row["seen"].values()]
        lines.append(
            line(
                [
                    f"`{name}`",
                    share(mine, "all_seen"),
                    _difference(own, name, PLAIN),
                    percentage(sum(subjects), len(subjects)),
                    percentage(*binding(mine)),
                    share(coloured(mine), "all_in_colour"),
                ]
            )
        )
    return "\n".join(lines)


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


def _difference(rows: Sequence[Row], name: str, other: str) -> str:
    if name == other:
        return ""
    found = paired_difference(rows, name, other, "all_seen")
    if found is None:
        return ""
    middle, low, high = (100 * value for value in found)
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
