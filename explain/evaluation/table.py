"""Tables of figures with their intervals and the protocol that made them, frozen, to and from files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from .intervals import Estimate

FORMAT: Final = "heedful.evaluation/1"
"""What a saved table says of itself."""


@dataclass(frozen=True)
class Entry:
    """One figure of one method on one model: its value, 95 % interval, and how many rows it rests on."""

    method: str
    model: str
    figure: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Table:
    """What a protocol found.

    Attributes:
        title: what was measured.
        protocol: every choice that a figure depends on (baseline, steps, thresholds, split ...), by name.
        entries: the figures. Values may be infinite (a median beyond the cap) or NaN (nothing to measure).
    """

    title: str
    protocol: Mapping[str, str | int | float | bool]
    entries: tuple[Entry, ...]

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures, in the order in which they first appear."""
        return tuple(dict.fromkeys(entry.figure for entry in self.entries))

    def get(self, method: str, figure: str, model: str | None = None) -> Entry:
        """The one entry of this method and figure.

        Raises:
            InputError: if there is none, or one on each of several models and none was named.
        """
        found = [
            entry
            for entry in self.entries
            if (entry.method, entry.figure) == (method, figure) and model in (None, entry.model)
        ]
        if len(found) != 1:
            on = "" if model is None else f' on "{model}"'
            there = ", ".join(sorted({f"{entry.method} on {entry.model}" for entry in self.entries}))
            raise InputError(
                f'wanted one entry "{figure}" of "{method}"{on}, found {len(found)}. Figures: '
                f"{', '.join(self.figures)}; methods: {there}"
            )
        return found[0]

    def to_json(self) -> str:
        """All of it as JSON; what is not finite is written as text ("inf", "nan")."""
        entries = [{name: _written(value) for name, value in asdict(entry).items()} for entry in self.entries]
        told = {
            "format": FORMAT,
            "title": self.title,
            "protocol": dict(self.protocol),
            "entries": entries,
        }
        return json.dumps(told, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Read what `to_json` wrote.

        Raises:
            InputError: for anything else.
        """
        try:
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise InputError(f'wanted a table of format "{FORMAT}", got "{told["format"]}"')
            entries = tuple(_entry(each) for each in told["entries"])
            return cls(told["title"], told["protocol"], entries)
        except (KeyError, TypeError, ValueError) as problem:
            if isinstance(problem, InputError):
                raise
            raise InputError(
                f"this is no table that Table.to_json wrote: {type(problem).__name__} {problem}"
            ) from problem

    def to_csv(self) -> str:
        """A line an entry; the protocol's choices stand in columns of their own, the same in every line."""
        buffer = io.StringIO()
        names = [*Entry.__dataclass_fields__, *(f"protocol: {name}" for name in self.protocol)]
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([*asdict(entry).values(), *self.protocol.values()] for entry in self.entries)
        return buffer.getvalue()

    def to_markdown(self, figures: Sequence[str] | None = None) -> str:
        """A line a method and model, a column a figure, and the protocol under it.

        Raises:
            InputError: for a figure that is not there.
        """
        shown = tuple(figures or self.figures)
        if strange := [name for name in shown if name not in self.figures]:
            raise InputError(f"no figure {', '.join(strange)}; there are: {', '.join(self.figures)}")
        cells = {(entry.method, entry.model, entry.figure): entry for entry in self.entries}
        lines = [_line(["method", "model", *shown]), _line(["---"] * (len(shown) + 2))]
        for method, model in dict.fromkeys((entry.method, entry.model) for entry in self.entries):
            found = [cells.get((method, model, figure)) for figure in shown]
            lines.append(_line([method, model, *(_cell(entry) if entry else "" for entry in found)]))
        told = "; ".join(f"{name}: {value}" for name, value in self.protocol.items())
        return f"**{self.title}**\n\n" + "\n".join(lines) + f"\n\nProtocol: {told}."

    def save(self, path: str | Path) -> None:
        """Write a file whose ending says what: .json, .csv or .md.

        Raises:
            InputError: for another ending.
        """
        made = {".json": self.to_json, ".csv": self.to_csv, ".md": self.to_markdown}
        ending = Path(path).suffix
        if ending not in made:
            raise InputError(f'cannot write "{Path(path).name}": a table is saved as {", ".join(made)}')
        Path(path).write_text(made[ending]().rstrip("\n") + "\n", encoding="utf-8")


def entry_of(method: str, model: str, figure: str, found: Estimate) -> Entry:
    """An estimate under its names."""
    return Entry(method, model, figure, found.value, found.low, found.high, found.n)


def _entry(told: Mapping[str, Any]) -> Entry:
    numbers = {name: float(told[name]) for name in ("value", "low", "high")}
    return Entry(**{**told, **numbers})


def _written(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _cell(entry: Entry) -> str:
    if entry.n == 0:
        return "nothing to measure"
    return f"{entry.value:.3g} ({entry.low:.3g} to {entry.high:.3g}), n {entry.n}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
