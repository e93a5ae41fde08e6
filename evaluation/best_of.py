"""Best-of-N plain sampling: what the same cost buys by drawing more images and keeping the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from ..explain.evaluation.records import Record
from .errors import EvaluationError
from .methods import PLAIN

By = Literal["check", "judge"]
CHOSEN_BY: Final[tuple[By, ...]] = ("check", "judge")
"""By `explain.check`, as one could who does not know the truth; or by the judge itself, the upper bound."""
Value = Callable[[Record], float]
Rows = Float[np.ndarray, "item"]


def candidates(rows: Mapping[str, Sequence[Record]]) -> tuple[Sequence[Record], ...]:
    """The rows of plain sampling and of its further candidates, in their order, as far as all are there."""
    found = [rows[PLAIN]] if PLAIN in rows else []
    while found and f"{PLAIN}-{len(found) + 1}" in rows:
        found.append(rows[f"{PLAIN}-{len(found) + 1}"])
    return tuple(found)


def drawn_for(ratio: float) -> int:
    """How many candidates a cost ratio needs: 2 for 1.25, where one image in four is the better of two.

    Raises:
        EvaluationError: a ratio that is no finite number.
    """
    if not math.isfinite(ratio):
        raise EvaluationError(f"a cost ratio must be a finite number, got {ratio}")
    return max(1, math.ceil(round(ratio, 6)))


def best_of(among: Sequence[Sequence[Record]], ratio: float, by: By, value: Value) -> Rows:
    """What a figure is, item by item, where plain sampling may cost `ratio` times as much as one image.

    For a whole number N it is the value of the best of the first N candidates; between N and N + 1 the two
    are mixed by their shares, which is the mean over drawing N + 1 that often. Less than 1 counts as 1:
    nobody draws less than one image. Looking at the candidates is counted as free.

    Args:
        among: `candidates`, the same items in the same order.
        by: "check" takes the one that `check` likes best, of equals the first; "judge" the one in which the
            judge sees most, of equals the one it is surest of.

    Raises:
        EvaluationError: fewer candidates than the ratio needs, or no rows that `check` has looked at.
    """
    if len(among) < drawn_for(ratio):
        raise EvaluationError(
            f"a cost ratio of {ratio:.3g} needs {drawn_for(ratio)} candidates, there are {len(among)}"
        )
    whole = max(1, math.floor(round(ratio, 6)))
    share = max(0.0, ratio - whole)
    few = _best(among[:whole], by, value)
    if share < 1e-6:
        return few
    return (1 - share) * few + share * _best(among[: whole + 1], by, value)


def _best(among: Sequence[Sequence[Record]], by: By, value: Value) -> Rows:
    merit = _checked if by == "check" else _judged
    chosen = (max(item, key=merit) for item in zip(*among, strict=True))
    return np.array([value(record) for record in chosen], dtype=float)


def _checked(record: Record) -> tuple[float, ...]:
    if "check" not in record:
        raise EvaluationError("the candidates were drawn without a model for check, by which to choose one")
    return tuple(record["check"])


def _judged(record: Record) -> tuple[float, ...]:
    seen, scores = record["seen"].values(), record["scores"].values()
    return (float(sum(seen)), min(scores), sum(scores))
