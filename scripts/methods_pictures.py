"""Which pictures a study gives: figures of all tests, curves, agreement, spreads, cases; with a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..explain.evaluation import (
    CONTROLS,
    BlankOut,
    DeletionInsertion,
    Estimate,
    MaskedAttack,
    Pairwise,
    Perturbation,
)
from ..explain.evaluation.intervals import mean
from ..explain.evaluation.study import Test, columns_of
from . import methods_plots as plots
from .methods_sheets import cases_sheet
from .methods_summary import Summary

LINES = 6
"""So many methods, the best ones, are drawn as lines; with the controls a plot holds no more."""
SHOWN = 5
"""So many methods stand beside each other on a sheet, and one control."""


@dataclass(frozen=True)
class Picture:
    """One file of a study; `kind` is "plot" or "cases"."""

    study: str
    kind: str
    path: Path
    caption: str


def save(folder: Path, summaries: Sequence[Summary]) -> list[Picture]:
    """Draw everything that the studies' records can show, study by study.

    Without matplotlib there are sheets alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Picture] = []
    for each in summaries:
        study = each.outcome.study.name
        if find_spec("matplotlib") is not None:
            for name, figure, caption in _plots(each):
                path = plots.save(figure, folder / f"{study}-{name}.png")
                found.append(Picture(study, "plot", path, caption))
        if (sheet := _cases(each)) is not None:
            path = folder / f"{study}-cases.png"
            sheet[0].save(path, optimize=True)
            found.append(Picture(study, "cases", path, sheet[1]))
    if find_spec("matplotlib") is not None:
        found += _tokens(folder, summaries)
    return found


def _plots(each: Summary) -> Iterator[tuple[str, Any, str]]:
    outcome = each.outcome
    order = [row.method for row in each.rows]
    if each.comparisons:
        panels = {f"{name}: {one.figure}": _entries(each, name) for name, one in each.comparisons.items()}
        caption = "Main figure of every test, larger is better, with 95 % intervals; controls are gray"
        yield "figures", plots.bars(panels, order), caption
    for test in outcome.study.tests:
        if isinstance(test.experiment, Perturbation | DeletionInsertion):
            yield test.name, _curves(each, test), f"{test.experiment.title}: what is left, step by step"
        elif isinstance(test.experiment, Pairwise):
            yield test.name, plots.matrix(outcome.tables[test.name]), "Spearman between every two methods"
        elif isinstance(test.experiment, MaskedAttack):
            rows = each.comparisons[test.name].rows
            figure = plots.spread(
                {name: rows[name] for name in order}, "steps outside less steps inside, quantiles"
            )
            yield test.name, figure, "Masked attack: quantiles .1, .25, .5, .75 and .9 over images"


def _entries(each: Summary, test: str) -> dict[str, Estimate]:
    compared = each.comparisons[test]
    return {name: compared.value(name) for name in compared.rows}


def _curves(each: Summary, test: Test) -> Any:
    """A panel for each of the two curves, of the best methods and all controls."""
    experiment: Any = test.experiment
    names = best(each, test.name, LINES)
    panels: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    for name in [*names, *each.comparisons[test.name].controls]:
        found = experiment.points(_kept(each, test, name))
        for point, value in found.items():
            curve, _, step = point.rpartition(" at ")
            panels.setdefault(curve, {}).setdefault(name, []).append((float(step), value))
    up = "accuracy" if isinstance(experiment, Perturbation) else "probability"
    return plots.curves(panels, "share of pieces", up)


def _kept(each: Summary, test: Test, method: str) -> dict[str, Any]:
    """What was measured, of those rows that the table is of."""
    records = each.outcome.records
    own = [record for record in records if record.get("correct")] if test.correct_only else records
    return columns_of(own, test.name, method)


def best(each: Summary, test: str, count: int) -> list[str]:
    """The methods with the largest means in a test; the generic rule is always among them."""
    compared = each.comparisons[test]
    values = {name: np.nan_to_num(compared.value(name).value, nan=-np.inf) for name in compared.methods}
    order = sorted(values, key=lambda name: -values[name])
    if "generic" in order[count:]:
        return [*order[: count - 1], "generic"]
    return order[:count]


def _cases(each: Summary) -> tuple[Any, str] | None:
    """The cases of the best method in the first test."""
    if not each.comparisons:
        return None
    name, compared = next(iter(each.comparisons.items()))
    shown = [*best(each, name, SHOWN), *compared.controls[:1]]
    test = next(one for one in each.outcome.study.tests if one.name == name)
    drawn = cases_sheet(each.outcome, test, compared, shown)
    return None if drawn is None else (drawn, f"Best and worst cases of {shown[0]} ({name})")


def _tokens(folder: Path, summaries: Sequence[Summary]) -> list[Picture]:
    """Blank-out against the number of pieces, over all studies of one kind that differ in it."""
    panels: dict[str, dict[str, list[tuple[float, Estimate]]]] = {}
    for each in summaries:
        for test in each.outcome.study.tests:
            if not isinstance(test.experiment, BlankOut):
                continue
            kind = each.outcome.study.name
            grouped = kind.startswith("tokens-")
            title = f"patches: {test.name}" if grouped else f"{kind}: {test.name}"
            for method in _drawn(each, test):
                found = by_pieces(_kept(each, test, method), whole=grouped)
                panels.setdefault(title, {}).setdefault(method, []).extend(found)
    made = []
    for title, lines in panels.items():
        if max(len(points) for points in lines.values()) < 3:
            continue
        name = "tokens-" + "".join(letter if letter.isalnum() else "-" for letter in title).replace("--", "-")
        ordered = {method: sorted(points, key=lambda one: one[0]) for method, points in lines.items()}
        figure = plots.curves({title: ordered}, "number of input tokens", "Spearman with blank-out")
        path = plots.save(figure, folder / f"{name}.png")
        made.append(Picture("tokens", "plot", path, f"Correlation with blank-out by length ({title})"))
    return made


def _drawn(each: Summary, test: Test) -> list[str]:
    """The same methods at every number of pieces: a handful by name, and the controls."""
    few = ("generic", "libra", "rollout", "raw_attention", "grad_cam", "gradient_x_input", *CONTROLS)
    return [name for name in few if name in each.comparisons[test.name].rows]


def by_pieces(columns: dict[str, Any], *, whole: bool, least: int = 10) -> list[tuple[float, Estimate]]:
    """The mean correlation at each number of pieces that at least ten rows have; or of all rows together."""
    pieces, values = columns["pieces"], columns["spearman"]
    if whole:
        return [(float(np.mean(pieces)), mean(values))]
    counts = [count for count in np.unique(pieces).tolist() if (pieces == count).sum() >= least]
    return [(float(count), mean(values[pieces == count])) for count in counts]
