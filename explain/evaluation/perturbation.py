"""Perturbation: what becomes of the answer when the most, or the least, relevant pieces are taken away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError
from .asking import Ask, Inputs, chosen, probabilities, row_count
from .intervals import Estimate, column, mean
from .parts import Part, Told
from .ranking import flat, ranks, whole
from .records import Columns, Measured

IMAGE_STEPS: Final = tuple(step / 10 for step in range(10))
"""Chefer et al. 2021 (CVPR): nothing, then 10 % to 90 % of the pixels."""
VQA_STEPS: Final = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Chefer et al. 2021 (ICCV), the tests on LXMERT."""
Truth = Int[Tensor, "row"] | Float[Tensor, "row label"]
"""The right label of every row, or how right each label is (VQA's soft accuracy)."""
Order = Literal["most", "least"]


@dataclass(frozen=True)
class Perturbation:
    """Positive and negative perturbation (Chefer et al. 2021, both papers).

    Positive takes the most relevant pieces first, and a good map makes the accuracy fall fast; negative takes
    the least relevant first, and it should stay. For each the area under accuracy against the share taken
    (trapezia), divided by the width of the shares, so that it lies in 0..1. The published numbers on ImageNet
    are 90 times it, as they go from 0 to .9 without a division.

    Attributes:
        parts: what is taken away. Of several the same share goes from each at once.
        steps: the shares taken, from 0 upwards; numbers of pieces are rounded.
        truth: what the labels that are passed in are, for the table.
    """

    parts: tuple[Part, ...]
    steps: tuple[float, ...] = IMAGE_STEPS
    truth: str = "the true label"
    title: str = field(default="Perturbation", kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def measure(self, ask: Ask, inputs: Inputs, truth: Truth, maps: Sequence[Tensor]) -> Measured:
        """Both curves of every row: columns "positive" and "negative", (row, step).

        Args:
            maps: one for each part, (row, piece) or (row, height, width).
        """
        found: Measured = {}
        for name, order in _ORDERS.items():
            curve = [_right(answered, truth) for answered in self._answers(ask, inputs, maps, order)]
            found[name] = torch.stack(curve, 1)
        return found

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """The areas under both curves, and the negative less the positive (larger is better)."""
        areas = {name: area(column(columns[name], name, 2), self.steps) for name in _ORDERS}
        found = {f"{name} AUC": mean(values) for name, values in areas.items()}
        return {**found, "negative - positive": mean(areas["negative"] - areas["positive"])}

    def points(self, columns: Columns) -> dict[str, Estimate]:
        """The curves, for plots: one figure for each step."""
        return points(columns, self.steps)

    @property
    def told(self) -> Told:
        """Parts, steps, and what is counted."""
        own: Told = {"steps": _listed(self.steps), "accuracy against": self.truth}
        return _told(self.parts) | own | {"ties": "one random order of the pieces"}

    def _answers(
        self, ask: Ask, inputs: Inputs, maps: Sequence[Tensor], order: Order
    ) -> Iterator[Float[Tensor, "row label"]]:
        pairs = _pairs(self.parts, maps, inputs)
        for step in self.steps:
            changed = dict(inputs)
            for part, values, movable in pairs:
                changed = part.without(changed, taken(values, movable, step, order))
            yield probabilities(ask, changed)


@dataclass(frozen=True)
class DeletionInsertion:
    """Deletion and insertion (RISE, Petsiuk et al. 2018): the label's probability as pieces go, or come.

    Deletion takes the most relevant first (small areas are good); insertion begins with nothing and brings
    the most relevant first (large areas are good). Areas as in `Perturbation`. With one and the same baseline
    insertion is negative perturbation read backwards; RISE inserts into a blurred image.

    Attributes:
        deleted: the part, with the baseline that deletion puts in its place.
        inserted: the same part, with the baseline that insertion begins with.
    """

    deleted: Part
    inserted: Part
    steps: tuple[float, ...] = tuple(step / 10 for step in range(11))
    label: str = "the predicted label"
    title: str = field(default="Deletion and insertion", kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def measure(self, ask: Ask, inputs: Inputs, labels: Int[Tensor, "row"], values: Tensor) -> Measured:
        """Both curves of every row: columns "deletion" and "insertion", (row, step)."""
        found: Measured = {}
        for name, part in (("deletion", self.deleted), ("insertion", self.inserted)):
            movable = part.movable(inputs)
            ranked = flat(values, movable)
            curve = []
            for step in self.steps:
                top = taken(ranked, movable, step, "most")
                gone = top if name == "deletion" else movable & ~top
                curve.append(chosen(probabilities(ask, part.without(inputs, gone)), labels))
            found[name] = torch.stack(curve, 1).float()
        return found

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """The areas under both curves."""
        return {
            f"{name} AUC": mean(area(column(columns[name], name, 2), self.steps))
            for name in ("deletion", "insertion")
        }

    def points(self, columns: Columns) -> dict[str, Estimate]:
        """The curves, for plots: one figure for each step."""
        return points(columns, self.steps)

    @property
    def told(self) -> Told:
        """Both baselines, steps, and whose probability it is."""
        both = ((name, part) for name, part in (("deletion", self.deleted), ("insertion", self.inserted)))
        told: Told = {f"{name}, {key}": value for name, part in both for key, value in part.told.items()}
        return told | {"steps": _listed(self.steps), "probability of": self.label}


_ORDERS: Final[Mapping[str, Order]] = {"positive": "most", "negative": "least"}


def taken(
    values: Float[Tensor, "row piece"], movable: Bool[Tensor, "row piece"], step: float, order: Order
) -> Bool[Tensor, "row piece"]:
    """The pieces that are gone when this share of them is taken, most or least relevant first."""
    place, count = ranks(values, movable), movable.sum(1, keepdim=True)
    if order == "least":
        place = count - 1 - place
    return movable & (place < whole(step, movable)[:, None])


def area(curve: Float[np.ndarray, "row step"], steps: Sequence[float]) -> Float[np.ndarray, "row"]:
    """The area under each row's curve by trapezia, divided by the width of the steps."""
    return (curve[:, 1:] + curve[:, :-1]) / 2 @ np.diff(steps) / (steps[-1] - steps[0])


def points(columns: Columns, steps: Sequence[float]) -> dict[str, Estimate]:
    """The mean of every column's curve at every step."""
    return {
        f"{name} at {step:g}": mean(column(values, name, 2)[:, index])
        for name, values in columns.items()
        for index, step in enumerate(steps)
    }


def _right(answered: Float[Tensor, "row label"], truth: Truth) -> Float[Tensor, "row"]:
    best = answered.argmax(1)
    if truth.is_floating_point():
        return chosen(truth.cpu(), best).float()
    return (best == truth.cpu()).float()


def _pairs(
    parts: Sequence[Part], maps: Sequence[Tensor], inputs: Inputs
) -> list[tuple[Part, Float[Tensor, "_ _"], Bool[Tensor, "_ _"]]]:
    """Each part with its map, and what of it can be taken from the whole inputs."""
    if len(parts) != len(maps):
        raise InputError(f"wanted one map for each of {len(parts)} parts, got {len(maps)}")
    row_count(inputs)
    found = []
    for part, values in zip(parts, maps, strict=True):
        movable = part.movable(inputs)
        found.append((part, flat(values, movable), movable))
    return found


def _check_steps(steps: Sequence[float]) -> None:
    if len(steps) < 2 or list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] > 1:
        raise InputError(f"steps must be at least two growing shares between 0 and 1, got {tuple(steps)}")


def _told(parts: Sequence[Part]) -> Told:
    return {key: value for part in parts for key, value in part.told.items()}


def _listed(steps: Sequence[float]) -> str:
    return ", ".join(f"{step:g}" for step in steps)
