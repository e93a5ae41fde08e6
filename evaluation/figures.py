"""From rows to tables: shares, similarities and costs of every method, with intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from ..explain.evaluation.intervals import Estimate, mean, paired, share
from ..explain.evaluation.records import Record
from ..explain.evaluation.table import Entry, Table, entry_of
from .best_of import CHOSEN_BY, best_of, candidates, drawn_for
from .errors import EvaluationError
from .methods import PLAIN

Told = dict[str, str | int | float | bool]
Values = Float[np.ndarray, "row"]
SINGLE: Final = "single"
"""The group of prompts that need no help: what guards the quality of images."""
PAIRS: Final = "all but single"
MAIN: Final = "all subjects"
COST: Final = "cost"
AFFORDED: Final = 1.03
"""A prompt that needs no help should cost at most so much of plain sampling."""


def _all(record: Record) -> float:
    return float(record["all"])


def _each(record: Record) -> float:
    return float(np.mean([*record["seen"].values()]))


def _bound(record: Record) -> float:
    """Of the coloured subjects that are seen at all, the share that is seen in its colour."""
    names = [label.partition(" ")[2].strip() for label in record["coloured"]]
    own = zip(names, record["coloured"].values(), strict=True)
    found = [right for name, right in own if record["seen"][name]]
    return float(np.mean(found)) if found else math.nan


def _all_in_colour(record: Record) -> float:
    if not record["coloured"]:
        return math.nan
    return float(record["all"] and all(record["coloured"].values()))


def _like(name: str) -> Callable[[Record], float]:
    return lambda record: float(record.get("likeness", {}).get(name, math.nan))


def _known(name: str) -> Callable[[Record], float]:
    return lambda record: math.nan if record.get(name) is None else float(record[name])


FIGURES: Final[Mapping[str, Callable[[Record], float]]] = {
    MAIN: _all,
    "each subject": _each,
    "colour bound": _bound,
    "all in colour": _all_in_colour,
    "CLIP full": _like("full"),
    "CLIP minimum": _like("minimum"),
    "caption": _like("by caption"),
    "change": _known("change"),
    "forwards": _known("forwards"),
    "seconds": _known("seconds"),
}
"""By name what a row says; NaN where it says nothing."""
RATES: Final = frozenset({MAIN, "each subject", "colour bound", "all in colour"})


@dataclass(frozen=True, eq=False)
class Results:
    """All rows of an evaluation.

    Attributes:
        model: as tables show it.
        rows: by method, plain sampling first, the same items in the same order.
        about: what a method is, by its name.
        told: every setting that the figures depend on.
        counted: whether cost is counted in operations; else it is seconds.
        left_out: methods that were asked for and are not there, each with the reason.
        notes: what a reader of the tables must know besides.
    """

    model: str
    rows: Mapping[str, Sequence[Record]]
    about: Mapping[str, str]
    told: Mapping[str, str | int | float | bool]
    counted: bool = True
    left_out: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if PLAIN not in self.rows:
            raise EvaluationError("every comparison needs the rows of plain sampling")
        items = {name: [record["item"] for record in own] for name, own in self.rows.items()}
        if wrong := [name for name, own in items.items() if own != items[PLAIN]]:
            raise EvaluationError(
                f"methods must have drawn the same items; not as {PLAIN}: {', '.join(wrong)}"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """All but the further candidates of best-of-N."""
        return tuple(name for name in self.rows if name == PLAIN or not name.startswith(f"{PLAIN}-"))

    @property
    def groups(self) -> tuple[str, ...]:
        """The sets of prompts; all but singles together where there are several of them."""
        own = tuple(dict.fromkeys(record["group"] for record in self.rows[PLAIN]))
        several = tuple(name for name in own if name != SINGLE)
        return (PAIRS, *own) if len(several) > 1 else own

    def of(self, group: str) -> Results:
        """The rows of one of `groups`."""
        if group == PAIRS:
            return self.only(lambda record: record["group"] != SINGLE)
        return self.only(lambda record: record["group"] == group)

    def only(self, wanted: Callable[[Record], bool]) -> Results:
        """The items whose plain row is wanted."""
        kept = {record["item"] for record in self.rows[PLAIN] if wanted(record)}
        rows = {name: [record for record in own if record["item"] in kept] for name, own in self.rows.items()}
        return replace(self, rows=rows)

    def values(self, method: str, figure: str) -> Values:
        """A figure of every row; the cost is a share of plain sampling's mean over the same rows.

        Raises:
            EvaluationError: an unknown figure.
        """
        if figure == COST:
            unit = "forwards" if self.counted else "seconds"
            return self.values(method, unit) / self.values(PLAIN, unit).mean()
        if figure not in FIGURES:
            raise EvaluationError(f'no figure "{figure}"; there are: {", ".join((*FIGURES, COST))}')
        return np.array([FIGURES[figure](record) for record in self.rows[method]], dtype=float)

    def estimate(self, values: Values, *, rate: bool = True) -> Estimate:
        """The mean of one value an item, by bootstrap over prompts: the seeds of a prompt stay together.

        Args:
            rate: whether it is a share. Where all are 0, or all 1, a bootstrap has no width: the interval is
                then Wilson's, of as many trials as there are prompts.
        """
        known = values[~np.isnan(values)]
        if rate and len(known) and known[0] in (0, 1) and (known == known[0]).all():
            groups = {
                name for name, value in zip(self._prompts, values, strict=True) if not math.isnan(value)
            }
            return replace(share(np.full(len(groups), bool(known[0]))), n=len(known))
        return mean(values, self._prompts)

    def difference(self, values: Values, others: Values) -> Estimate:
        """The mean of their difference, item by item, by the same bootstrap."""
        return paired(values, others, self._prompts)

    @property
    def _prompts(self) -> list[str]:
        return [record["prompt"] for record in self.rows[PLAIN]]


def tables(results: Results) -> dict[str, Table]:
    """Every table, by a name for files."""
    found = {}
    for group in results.groups:
        own = results.of(group)
        name = group.replace(" ", "-")
        found[name] = overview(own, group)
        found[f"{name}-differences"] = differences(own, group)
        if group != SINGLE:
            found[f"{name}-equal-cost"] = equal_cost(own, group)
        if any(record["kind"] for record in own.rows[PLAIN]):
            found[f"{name}-kinds"] = by_kind(own, group)
    found["no-help"] = no_help(results)
    found["subjects"] = by_subject(results)
    return {name: table for name, table in found.items() if table.entries}


def overview(results: Results, group: str) -> Table:
    """Every figure of every method; those that say nothing here are not there."""
    entries = [
        _entry(
            results, method, figure, results.estimate(results.values(method, figure), rate=figure in RATES)
        )
        for method in results.methods
        for figure in (*FIGURES, COST)
    ]
    return _table(results, f"{group}: figures", entries)


def differences(results: Results, group: str) -> Table:
    """Each method less each before it, over the same prompts and seeds: all subjects, and CLIP full."""
    entries = [
        _entry(
            results, method, f"{figure} less {other}",
            results.difference(results.values(method, figure), results.values(other, figure)),
        )
        for place, method in enumerate(results.methods)
        for other in results.methods[:place]
        for figure in (MAIN, "all in colour", "CLIP full")
    ]  # fmt: skip
    return _table(results, f"{group}: differences, paired", entries)


def equal_cost(results: Results, group: str) -> Table:
    """Each method beside best-of-N plain sampling that costs as much, and their difference.

    N is the method's mean cost in this group over plain sampling's. Methods for which too few candidates were
    drawn are not there.
    """
    entries = []
    among = candidates(results.rows)
    for method in results.methods[1:]:
        costs, own = results.values(method, COST), results.values(method, MAIN)
        ratio = float(costs.mean())
        if len(among) < drawn_for(ratio):
            continue
        entries += [
            _entry(results, method, COST, results.estimate(costs, rate=False)),
            _entry(results, method, MAIN, results.estimate(own)),
        ]
        for by in CHOSEN_BY:
            if by == "check" and "check" not in among[0][0]:
                continue
            rival = best_of(among, ratio, by, _all)
            entries += [
                _entry(results, method, f"best-of-N by {by}", results.estimate(rival)),
                _entry(results, method, f"less best-of-N by {by}", results.difference(own, rival)),
            ]
    return _table(results, f"{group}: beside best-of-N at equal cost", entries)


def by_kind(results: Results, group: str) -> Table:
    """All subjects, for each kind of prompt in the group."""
    entries = []
    for kind in dict.fromkeys(record["kind"] for record in results.rows[PLAIN]):
        own = results.only(lambda record, kind=kind: record["kind"] == kind)  # type: ignore[misc]
        entries += [
            _entry(own, method, kind or "other", own.estimate(own.values(method, MAIN)))
            for method in own.methods
        ]
    return _table(results, f"{group}: all subjects by kind", entries)


def by_subject(results: Results) -> Table:
    """How often each subject is seen, over all prompts that name it."""
    names = sorted({name for record in results.rows[PLAIN] for name in record["seen"]})
    entries = []
    for name in names:
        own = results.only(lambda record, name=name: name in record["seen"])  # type: ignore[misc]
        for method in own.methods:
            seen = np.array([record["seen"][name] for record in own.rows[method]], dtype=float)
            entries.append(_entry(own, method, name, own.estimate(seen)))
    return _table(results, "every subject", entries)


def no_help(results: Results) -> Table:
    """What methods do where plain sampling shows everything, and whether they leave others without help.

    - cost: over all prompts and seeds at which plain sampling is complete;
    - still complete: of the same images;
    - over 1.03: the share of them that cost more than that;
    - left without help: of the images in which plain sampling lacks a subject, those that guidance did not
      move at all.
    """
    entries = []
    done = results.only(lambda record: bool(record["all"]))
    lacking = results.only(lambda record: not record["all"])
    for method in results.methods[1:]:
        if done.rows[PLAIN]:
            costs = done.values(method, COST) if not _unknown(results, method) else np.full(0, math.nan)
            if len(costs):
                entries += [
                    _entry(done, method, COST, done.estimate(costs, rate=False)),
                    _entry(done, method, f"over {AFFORDED}", done.estimate((costs > AFFORDED).astype(float))),
                ]
            entries.append(_entry(done, method, "still complete", done.estimate(done.values(method, MAIN))))
        moved = [record["moved"] for record in lacking.rows[method]]
        if moved and None not in moved:
            left = lacking.estimate(1.0 - np.array(moved, dtype=float))
            entries.append(_entry(lacking, method, "left without help", left))
    return _table(results, "where plain sampling needs no help", entries)


def _unknown(results: Results, method: str) -> bool:
    return bool(np.isnan(results.values(method, COST)).any())


def _entry(results: Results, method: str, figure: str, found: Estimate) -> Entry:
    return entry_of(method, results.model, figure, found)


def _table(results: Results, title: str, entries: Sequence[Entry]) -> Table:
    return Table(title, dict(results.told), tuple(entry for entry in entries if entry.n))


def lines(table: Table, about: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Entry]]]:
    """What a method is, with its entries by figure, in the table's order."""
    for method in dict.fromkeys(entry.method for entry in table.entries):
        own = {entry.figure: entry for entry in table.entries if entry.method == method}
        yield about.get(method, method), own


def shown(entry: Entry) -> str:
    """An entry as tables show it: rates and their differences in percent, all with the interval."""
    percent = is_rate(entry.figure)
    numbers = [100 * each if percent else each for each in (entry.value, entry.low, entry.high)]
    digits = 1 if percent or entry.figure in ("forwards",) else 3
    signed = "+" if " less " in f" {entry.figure}" else ""
    value, low, high = (f"{each:{signed}.{digits}f}" for each in numbers)
    return f"{value} ({low} to {high})"


def is_rate(figure: str) -> bool:
    """Whether a figure of these tables is a share, and is shown in percent."""
    plain: Any = figure.partition(" less ")[0]
    return not (plain in FIGURES and plain not in RATES) and plain != COST
