"""A study on one page: every method's main figure in every test, what beats the controls, what is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..explain.evaluation import CONTROLS, Estimate
from ..explain.evaluation.comparison import Comparison, compare, has_main_figure
from .explain_methods import Outcome

LEGEND = "bold: best, or not worse beyond the interval; *: beats every control beyond the interval"


@dataclass(frozen=True)
class Cell:
    """The main figure of one method in one test."""

    found: Estimate
    best: bool
    beats: bool
    rank: float
    """Which part of the other methods is better: 0 is the best, 1 the worst."""

    @property
    def short(self) -> str:
        """The value, half the width of its interval, and a star where it beats every control."""
        if self.found.n == 0 or not np.isfinite(self.found.value):
            return "none"
        half = (self.found.high - self.found.low) / 2
        return f"{self.found.value:.3f} ±{half:.3f}{'*' if self.beats else ''}"

    @property
    def long(self) -> str:
        """The value and both ends of its interval."""
        if self.found.n == 0 or not np.isfinite(self.found.value):
            return "none"
        ends = f"({self.found.low:.2f} to {self.found.high:.2f})"
        return f"{self.found.value:.3f} {ends}{'*' if self.beats else ''}"


@dataclass(frozen=True)
class Row:
    """One method, or control, in every test of a study; None where it was not measured."""

    method: str
    control: bool
    cells: tuple[Cell | None, ...]
    last: bool
    """Whether it is the last before the controls."""


@dataclass(frozen=True, eq=False)
class Summary:
    """A study on one page: methods sorted by their mean rank, controls below.

    Attributes:
        comparisons: by test, of those by which methods can be compared.
    """

    outcome: Outcome
    comparisons: Mapping[str, Comparison]

    @property
    def heads(self) -> tuple[str, ...]:
        """Every test with its main figure."""
        return tuple(f"{name}: {each.figure}" for name, each in self.comparisons.items())

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The methods, best first, then the controls."""
        cells = {name: _cells(each) for name, each in self.comparisons.items()}
        ranks = {
            name: np.mean([each[name].rank for each in cells.values() if name in each])
            for name in self._names(control=False)
        }
        own = sorted(ranks, key=ranks.__getitem__)
        names = [*own, *self._names(control=True)]
        return tuple(
            Row(
                name, name in CONTROLS, tuple(each.get(name) for each in cells.values()),
                last=name == (own[-1] if own else None),
            )
            for name in names
        )  # fmt: skip

    def _names(self, *, control: bool) -> list[str]:
        every = dict.fromkeys(name for each in self.comparisons.values() for name in each.rows)
        return [name for name in every if (name in CONTROLS) is control]


def _cells(compared: Comparison) -> dict[str, Cell]:
    """Of every method and control that the test has measured."""
    means = {name: np.nan_to_num(compared.value(name).value, nan=-np.inf) for name in compared.rows}
    own = [means[name] for name in compared.methods]
    good = compared.as_good() if own else ()
    return {
        name: Cell(
            compared.value(name),
            best=name in good,
            beats=name not in CONTROLS and compared.beats(name),
            rank=sum(value > means[name] for value in own) / max(1, len(own) - 1),
        )
        for name in compared.rows
    }


def summary(outcome: Outcome) -> Summary:
    """The comparisons of all tests by which methods can be compared."""
    return Summary(
        outcome,
        {
            test.name: compare(test, outcome.records)
            for test in outcome.study.tests
            if has_main_figure(test.experiment)
        },
    )
