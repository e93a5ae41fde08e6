"""Sheets of images: where a method did best and worst, beside what the others drew from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from ..explain.evaluation.records import Record
from ..pictures import Tile, sheet
from .figures import SINGLE, Results
from .methods import PLAIN

CASES, SIDE = 4, 160
_SEEN: Final = {True: "yes", False: "no"}


def gains(results: Results, method: str) -> list[tuple[float, int]]:
    """How much better than plain sampling each image is, best first, as (gain, place of the row).

    A whole number for subjects that are seen more, and less than that for how sure the eyes are of the most
    neglected one.
    """
    found = []
    for place, (own, plain) in enumerate(zip(results.rows[method], results.rows[PLAIN], strict=True)):
        more = sum(own["seen"].values()) - sum(plain["seen"].values())
        surer = min(own["scores"].values()) - min(plain["scores"].values())
        found.append((more + surer / 2, place))
    return sorted(found, key=lambda one: (-one[0], one[1]))


def cases_sheet(results: Results, method: str, folder: Path, count: int = CASES) -> Image.Image | None:
    """The method's best cases above its worst ones; None where there are not two images to tell apart.

    Prompts of one subject are not among them, unless there are no others.

    Args:
        folder: where the evaluation keeps its images; one that is gone is left empty.
    """
    several = results.only(lambda record: record["group"] != SINGLE)
    results = several if several.rows[PLAIN] else results
    ranked = gains(results, method)
    size = min(count, len(ranked) // 2)
    if not size:
        return None
    names = list(dict.fromkeys((PLAIN, method, *results.methods)))
    lines, labels = [], []
    for what, chosen in (("best", ranked[:size]), ("worst", ranked[::-1][:size])):
        for number, (_, place) in enumerate(chosen, 1):
            rows = [results.rows[name][place] for name in names]
            lines.append([_tile(row, folder) for row in rows])
            labels.append(f"{what} {number}: {rows[0]['prompt']}, seed {rows[0]['seed']}")
    if not any(tile for line in lines for tile in line):
        return None
    columns = [results.about.get(name, name) for name in names]
    title = f"{results.model}: {results.about.get(method, method)}, best and worst against plain sampling"
    return sheet(lines, title=title, column_labels=columns, row_labels=labels, side=SIDE)


def _tile(row: Record, folder: Path) -> Tile | None:
    path = folder / row["image"]
    if not path.exists():
        return None
    with Image.open(path) as image:
        shown = image.convert("RGB")
    scale = max(1.0, SIDE / max(shown.size))
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    return Tile(shown.resize(size, Image.Resampling.BICUBIC), _caption(row))


def _caption(row: Record) -> str:
    said: Sequence[str] = [f"{name}: {_SEEN[there]}" for name, there in row["seen"].items()]
    return ", ".join([*said, *(f"{label}: no" for label, there in row["coloured"].items() if not there)])
