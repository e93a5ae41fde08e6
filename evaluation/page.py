"""What an evaluation leaves behind: tables as files, pictures, and a page that shows them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ..explain.evaluation.table import Entry, Table
from . import plots, sheets
from .figures import COST, FIGURES, Results, lines, shown, tables

FORMAT: Final = "heedful.evaluate/1"
MEANINGS: Final[Mapping[str, str]] = {
    "all subjects": "images in which every subject of the prompt is seen, %",
    "each subject": "subjects that are seen, %",
    "colour bound": "of the coloured subjects that are seen, those seen in their colour, %",
    "all in colour": "images in which every subject is seen, and in its colour, %",
    "CLIP full": "cosine of image and prompt",
    "CLIP minimum": "cosine of image and the part of the prompt that is least in it",
    "caption": "cosine of the prompt and a caption of the image",
    "change": "1 - cosine of the eyes' features of the image and of the plain image of the same noise",
    "forwards": "denoiser forwards of one row that an image costs, counted in operations",
    "seconds": "seconds an image took",
    COST: "cost of an image over that of plain sampling",
    "best-of-N": "the best of N plain images of the same cost, chosen by check or by the judge itself, %",
}


def save(results: Results, out: Path) -> list[Path]:
    """Write tables.json, tables.csv, the pictures and evaluation.md; returns their paths.

    Without matplotlib there is no plot, and the page says so.
    """
    found = tables(results)
    paths = [out / "tables.json", out / "tables.csv"]
    paths[0].write_text(to_json(results, found), encoding="utf-8")
    paths[1].write_text(to_csv(found), encoding="utf-8")
    pictures = _pictures(results, out / "pictures")
    page = out / "evaluation.md"
    page.write_text(
        to_markdown(results, found, [path.relative_to(out) for path in pictures]), encoding="utf-8"
    )
    return [*paths, *pictures, page]


def to_json(results: Results, found: Mapping[str, Table]) -> str:
    """Every table with its protocol."""
    told = {name: json.loads(table.to_json()) for name, table in found.items()}
    whole = {
        "format": FORMAT,
        "model": results.model,
        "tables": told,
        "left out": dict(results.left_out or {}),
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def to_csv(found: Mapping[str, Table]) -> str:
    """A line a figure, with the name of its table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["table", *Entry.__dataclass_fields__])
    for name, table in found.items():
        writer.writerows([name, *asdict(entry).values()] for entry in table.entries)
    return buffer.getvalue()


def to_markdown(results: Results, found: Mapping[str, Table], pictures: list[Path]) -> str:
    """The page: tables, pictures, what the figures mean, all settings."""
    parts = [f"# {results.model}: every subject, and at what cost", tables_text(results, found, "##")]
    parts += [f"![{path.stem}]({path.as_posix()})" for path in pictures]
    if not any(path.stem == "cost" for path in pictures):
        parts.append('*No plot*: it needs matplotlib, which `pip install "heedful[eval]"` brings.')
    return "\n\n".join([*parts, "## What the figures are", _meanings(found)]) + "\n"


def tables_text(results: Results, found: Mapping[str, Table] | None = None, heading: str = "###") -> str:
    """The settings, what was left out and all tables, to stand in a document of one's own."""
    parts = [_settings(results), *results.notes]
    parts += [f"*Left out*: {name}: {reason}." for name, reason in (results.left_out or {}).items()]
    for name, table in (tables(results) if found is None else found).items():
        upright = name != "subjects"
        parts += [f"{heading} {table.title}", markdown(table, results.about, upright=upright)]
    return "\n\n".join(parts)


def markdown(table: Table, about: Mapping[str, str], *, upright: bool = True) -> str:
    """A line a method and a column a figure; the other way round where there are many figures."""
    rows = list(lines(table, about))
    if not upright:
        heads = [name for name, _ in rows]
        body = [
            [figure, *(shown(own[figure]) if figure in own else "" for _, own in rows)]
            for figure in table.figures
        ]
        return _grid(["", *heads], body)
    body = [
        [name, *(shown(own[figure]) if figure in own else "" for figure in table.figures), _count(own)]
        for name, own in rows
    ]
    return _grid(["method", *table.figures, "n"], body)


def _count(own: Mapping[str, Entry]) -> str:
    counts = sorted({entry.n for entry in own.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _grid(heads: list[str], body: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _settings(results: Results) -> str:
    return "Settings: " + "; ".join(f"{name}: {value}" for name, value in results.told.items()) + "."


def _meanings(found: Mapping[str, Table]) -> str:
    there = {entry.figure for table in found.values() for entry in table.entries}
    shown_here = [
        f"- **{name}**: {text}."
        for name, text in MEANINGS.items()
        if any(name == figure or (name not in FIGURES and name in figure) for figure in there)
    ]
    intervals = "In brackets stand 95 % intervals, by bootstrap over prompts. *Less*: paired differences."
    return "\n".join([intervals, "", *shown_here])


def _pictures(results: Results, folder: Path) -> list[Path]:
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    if find_spec("matplotlib") is not None:
        found.append(plots.save(plots.success_against_cost(results), folder / "cost.png"))
    for method in results.methods[1:]:
        drawn = sheets.cases_sheet(results, method, folder.parent)
        if drawn is not None:
            path = folder / f"cases-{method}.png"
            drawn.save(path)
            found.append(path)
    return found
