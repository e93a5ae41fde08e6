"""What `heedful explain-methods` leaves behind: tables, plots, sheets, the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ..explain.evaluation import Entry, Table
from . import methods_page as page
from . import methods_pictures as pictures
from .methods_summary import Summary

FORMAT: Final = "heedful.explain-methods/1"
DIFFERENCES: Final = "Differences"


def save(out: Path, summaries: Sequence[Summary], write: Path | None = None) -> list[Path]:
    """Write tables, plots, sheets and the page into a folder, and the page to a place of its own, too.

    Returns:
        All paths; plots are not among them where matplotlib is missing, and the page says so.
    """
    paths = [out / "tables.json", out / "tables.csv"]
    paths[0].write_text(to_json(summaries), encoding="utf-8")
    paths[1].write_text(to_csv(summaries), encoding="utf-8")
    drawn = pictures.save(out / "pictures", summaries)
    paths += [each.path for each in drawn]
    for place in (out / "evidence.md", *([] if write is None else [write])):
        paths.append(page.save(place, summaries, drawn))
    return paths


def to_json(summaries: Sequence[Summary]) -> str:
    """Every table with its protocol, and every difference to the controls."""
    studies = {
        each.outcome.study.name: {
            "model": each.outcome.study.model_name,
            "items": len(each.outcome.records),
            "tests": {name: json.loads(table.to_json()) for name, table in each.outcome.tables.items()},
            "differences": {name: json.loads(table.to_json()) for name, table in _differences(each)},
        }
        for each in summaries
    }
    return json.dumps({"format": FORMAT, "studies": studies}, indent=1, allow_nan=False) + "\n"


def to_csv(summaries: Sequence[Summary]) -> str:
    """A line a figure, with its study and test; differences to the controls stand beside the figures."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["study", "test", *Entry.__dataclass_fields__])
    for each in summaries:
        tables = [*each.outcome.tables.items(), *_differences(each)]
        writer.writerows(
            [each.outcome.study.name, name, *asdict(entry).values()]
            for name, table in tables
            for entry in table.entries
            if table.title != DIFFERENCES or entry.figure.startswith("less ")
        )
    return buffer.getvalue()


def _differences(each: Summary) -> list[tuple[str, Table]]:
    model = each.outcome.study.model_name
    return [(name, compared.table(model, DIFFERENCES)) for name, compared in each.comparisons.items()]
