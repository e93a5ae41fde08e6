"""Which methods are better than which, by the main figure of a test, over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import InputError
from .attack import MaskedAttack
from .blank_out import BlankOut
from .controls import CONTROLS
from .detection import FoundMasks
from .intervals import Estimate, column, mean, paired
from .localisation import MaskFromRelevance, PointingAtPieces, PointingGame, Segmentation
from .perturbation import DeletionInsertion, Perturbation, area
from .records import Columns, Experiment, Record, columns
from .specificity import ClassSpecificity
from .study import Test, of_test
from .table import Table, entry_of

Rows = Float[np.ndarray, "row"]


@singledispatch
def main_figure(experiment: Any, measured: Columns) -> tuple[str, Rows]:
    """The figure by which a protocol compares methods, larger is better, and its value in every row.

    Register a protocol of one's own with `main_figure.register`.

    Raises:
        InputError: a protocol that compares no methods.
    """
    raise InputError(f"{type(experiment).__name__} has no main figure by which methods could be compared")


@main_figure.register
def _(experiment: Perturbation, measured: Columns) -> tuple[str, Rows]:
    return "negative - positive", _less(measured, "negative", "positive", experiment.steps)


@main_figure.register
def _(experiment: DeletionInsertion, measured: Columns) -> tuple[str, Rows]:
    return "insertion - deletion", _less(measured, "insertion", "deletion", experiment.steps)


@main_figure.register
def _(experiment: BlankOut, measured: Columns) -> tuple[str, Rows]:
    return "Spearman", column(measured["spearman"], "spearman")


@main_figure.register
def _(experiment: MaskedAttack, measured: Columns) -> tuple[str, Rows]:
    share = f"{experiment.shares[0]:.0%}"
    inside, outside = (column(measured[f"{side} {share}"], side) for side in ("inside", "outside"))
    return f"difference {share}", experiment.difference(inside, outside)


@main_figure.register(PointingGame)
@main_figure.register(PointingAtPieces)
def _(experiment: PointingGame | PointingAtPieces, measured: Columns) -> tuple[str, Rows]:
    return "pointing", column(measured["hit"], "hit")


@main_figure.register
def _(experiment: Segmentation, measured: Columns) -> tuple[str, Rows]:
    return "mAP", column(measured["AP"], "AP")


@main_figure.register(MaskFromRelevance)
@main_figure.register(FoundMasks)
def _(experiment: MaskFromRelevance | FoundMasks, measured: Columns) -> tuple[str, Rows]:
    return "mask IoU", column(measured["mask IoU"], "mask IoU")


@main_figure.register
def _(experiment: ClassSpecificity, measured: Columns) -> tuple[str, Rows]:
    return "own mask against the other's", column(measured["own"], "own")


def _less(measured: Columns, good: str, bad: str, steps: Sequence[float]) -> Rows:
    better, worse = (area(column(measured[name], name, 2), steps) for name in (good, bad))
    return better - worse


@dataclass(frozen=True, eq=False)
class Comparison:
    """The main figure of a test, row by row, of every method and control.

    Attributes:
        figure: its name; larger is better.
        rows: by method and control, the same rows in the same order.
        groups: which rows belong together (boxes of one image); None: each stands alone.
    """

    figure: str
    rows: Mapping[str, Rows]
    groups: tuple[float, ...] | None = None
    _known: dict[tuple[str, ...], Estimate] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if len({len(each) for each in self.rows.values()}) != 1:
            raise InputError(
                "a comparison needs the same rows of every method; there are "
                f"{ {name: len(each) for name, each in self.rows.items()} or 'none' }"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """All that are no controls."""
        return tuple(name for name in self.rows if name not in CONTROLS)

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls that were measured."""
        return tuple(name for name in CONTROLS if name in self.rows)

    def value(self, name: str) -> Estimate:
        """The mean of one method."""
        return self._once((name,), lambda: mean(self._of(name), self.groups))

    def less(self, name: str, other: str) -> Estimate:
        """The mean of one method less that of another, paired."""
        return self._once((name, other), lambda: paired(self._of(name), self._of(other), self.groups))

    def beats(self, name: str, others: Sequence[str] | None = None) -> bool:
        """Whether it is better than each of the others beyond the interval; None: than every control."""
        against = self.controls if others is None else others
        return bool(against) and all(self.less(name, other).low > 0 for other in against)

    @property
    def best(self) -> str:
        """The method with the largest mean; a method without any value is none."""
        means = {name: self.value(name).value for name in self.methods}
        known = {name: value for name, value in means.items() if not np.isnan(value)}
        if not known:
            raise InputError("no method has a value here")
        return max(known, key=known.__getitem__)

    def as_good(self) -> tuple[str, ...]:
        """The best method, and those that are not worse beyond the interval of the paired difference."""
        best = self.best
        return tuple(name for name in self.methods if name == best or not self.less(best, name).low > 0)

    def table(self, model: str, title: str = "Differences", against: Sequence[str] | None = None) -> Table:
        """The mean of each method, and that less each of the others (None: the controls), over the same rows.

        A difference whose interval lies above 0 is one beyond the interval.
        """
        others = self.controls if against is None else tuple(against)
        entries = []
        for name in self.rows:
            entries.append(entry_of(name, model, self.figure, self.value(name)))
            entries += [
                entry_of(name, model, f"less {other}", self.less(name, other))
                for other in others
                if other != name
            ]
        told = {"figure": self.figure, "differences": "paired over the same rows; bootstrap, percentiles"}
        return Table(title, told, tuple(entries))

    def _once(self, key: tuple[str, ...], make: Callable[[], Estimate]) -> Estimate:
        """Everything here asks for the same few estimates, and each is a bootstrap."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _of(self, name: str) -> Rows:
        if name not in self.rows:
            raise InputError(f'no rows of "{name}"; there are: {", ".join(self.rows)}')
        return self.rows[name]


def compare(test: Test, found: Sequence[Record]) -> Comparison:
    """The comparison of a test's methods, from the records of its study.

    Raises:
        InputError: a test without a main figure (agreement between methods has none), or no record to use.
    """
    own = of_test(found, test.name)
    kept = [record for record in own if record.get("correct")] if test.correct_only else own
    if not kept:
        raise InputError(f'there is no record of "{test.name}" to compare methods by')
    measured = {name: columns(kept, name) for name in kept[0]["values"]}
    mains = {name: main_figure(test.experiment, each) for name, each in measured.items()}
    figure, groups = next(iter(mains.values()))[0], next(iter(measured.values())).get("image")
    told = None if groups is None else tuple(groups.tolist())
    return Comparison(figure, {name: rows for name, (_, rows) in mains.items()}, told)


def has_main_figure(experiment: Experiment) -> bool:
    """Whether methods can be compared by this protocol."""
    return main_figure.dispatch(type(experiment)) is not main_figure.dispatch(object)
