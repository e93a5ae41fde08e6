"""Keeps the figures in the model cards: a marked block of each card is what was last measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

Row = tuple[str, str, int]
"""A figure's name, its value as text, and the number of images it rests on."""
BEGIN: Final = "<!-- figures: written by scripts/measure_emoji.py -->"
END: Final = "<!-- end of figures -->"


def write_figures(card: Path, figures: Sequence[Row], when: str) -> None:
    """Put the figures into the card's block, replacing those of the same names and keeping the others.

    Args:
        card: a README.md with a line `BEGIN` and, after it, a line `END`.
        when: how they were measured, in a few words; stands below the table.

    Raises `ValueError` when the card has no such block.
    """
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.split(BEGIN, 1)[1]:
        raise ValueError(
            f"{card} has no block for figures; put these two lines where they belong:\n{BEGIN}\n{END}"
        )
    before, rest = text.split(BEGIN, 1)
    old, after = rest.split(END, 1)
    rows = _rows(old) | {name: f"| {name} | {value} | {count} |" for name, value, count in figures}
    table = ["| figure | value (95 % interval) | images |", "|---|---|---|", *rows.values()]
    block = "\n".join([BEGIN, "", *table, "", when, "", END])
    card.write_text(before + block + after, encoding="utf-8")


def _rows(block: str) -> dict[str, str]:
    """The rows of the table that is there, by their first cell; its two head rows left out."""
    lines = [
        line for line in block.splitlines() if line.startswith("| ") and not line.startswith("| figure |")
    ]
    return {line.split("|")[1].strip(): line for line in lines}
