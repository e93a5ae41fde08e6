"""Between protocols and tables: one record for every item, as it is written to a file, and its figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from torch import Tensor

from ..errors import InputError
from .intervals import Estimate
from .table import Table, entry_of

Record = dict[str, Any]
"""{"item": 3, "correct": true, "values": {method: {column: number or list}}}, ready for JSON."""
Columns = Mapping[str, Shaped[np.ndarray, "row *_"]]
"""What a protocol measured of each row, by name."""
Measured = dict[str, Shaped[Tensor, "row *_"]]
"""The same as it leaves the protocol."""


@runtime_checkable
class Experiment(Protocol):
    """What every protocol can do with its columns, beside measuring them."""

    @property
    def title(self) -> str:
        """What is measured."""

    @property
    def told(self) -> dict[str, str | int | float | bool]:
        """Every choice that the figures depend on."""

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """The figures of all rows."""


def records(items: Sequence[int], values: Mapping[str, Measured], **about: Any) -> list[Record]:
    """One record for each item of a batch.

    Args:
        items: the items' numbers, in the order of the rows.
        values: by method what a protocol measured.
        about: what else is to be kept: one value for all, or a tensor with one for each row (`correct`).

    Raises:
        InputError: columns that are not as long as the batch.
    """
    every = {(method, name): column for method, own in values.items() for name, column in own.items()}
    wrong = [" ".join(key) for key, column in every.items() if len(column) != len(items)]
    wrong += [name for name, one in about.items() if isinstance(one, Tensor) and len(one) != len(items)]
    if wrong:
        raise InputError(f"wanted one value for each of {len(items)} items; not so in: {', '.join(wrong)}")
    plain = {key: column.detach().cpu().double().tolist() for key, column in every.items()}
    told = {name: one.tolist() if isinstance(one, Tensor) else one for name, one in about.items()}
    return [
        {
            "item": int(item),
            **{name: one[row] if isinstance(about[name], Tensor) else one for name, one in told.items()},
            "values": {
                method: {name: _written(plain[method, name][row]) for name in own}
                for method, own in values.items()
            },
        }
        for row, item in enumerate(items)
    ]


def columns(found: Iterable[Record], method: str) -> dict[str, Shaped[np.ndarray, "row *_"]]:
    """What was measured of one method, in the records that hold it.

    Raises:
        InputError: if none does, or they do not hold the same columns.
    """
    own = [record["values"][method] for record in found if method in record["values"]]
    if not own or any(each.keys() != own[0].keys() for each in own):
        what = "no record holds" if not own else "the records hold different columns of"
        raise InputError(f'{what} "{method}"')
    return {name: np.array([_read(each[name]) for each in own], dtype=float) for name in own[0]}


def tabulate(
    experiment: Experiment, found: Sequence[Record], *, model: str, correct_only: bool = False,
    about: Mapping[str, str | int | float | bool] | None = None,
) -> Table:  # fmt: skip
    """The table of a protocol, from the records of all items.

    Args:
        correct_only: only the items whose record says `correct`.
        about: what else belongs to the protocol (the data, the methods' settings).

    Raises:
        InputError: without records, or `correct_only` where they do not say so.
    """
    if correct_only and any("correct" not in record for record in found):
        raise InputError('correct_only needs records that hold "correct": pass records(..., correct=tensor)')
    kept = [record for record in found if record["correct"]] if correct_only else list(found)
    if not kept:
        raise InputError("there is no record to make a table of")
    methods = dict.fromkeys(method for record in kept for method in record["values"])
    entries = [
        entry_of(method, model, figure, estimate)
        for method in methods
        for figure, estimate in experiment.summary(columns(kept, method)).items()
    ]
    split = "those the model answers correctly" if correct_only else "all"
    return Table(experiment.title, {**experiment.told, "items": split, **(about or {})}, tuple(entries))


def _written(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    if isinstance(value, list):
        return [_written(each) for each in value]
    return value if math.isfinite(value) else str(value)


def _read(value: Any) -> Any:
    return [_read(each) for each in value] if isinstance(value, list) else float(value)
