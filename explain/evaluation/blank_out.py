"""Blank-out: what each piece is worth to the answer, and how far maps agree with that and each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError
from .asking import Ask, Inputs, answers, chosen, picked
from .intervals import Estimate, column, deviation, mean
from .parts import Part, Told
from .ranking import common, flat, spearman, varies
from .records import Columns, Measured


@dataclass(frozen=True)
class BlankOut:
    """Blank-out (Abnar and Zuidema 2020 for words; the vision study did it with black squares).

    Each piece alone is taken away; its worth is the drop of the predicted class's probability. A map is as
    good as its values, ranked, follow the drops: Spearman's correlation within each row, and the part of the
    most relevant share that both have in common.

    Attributes:
        share: how much of a row is its top.
        together: how many changed inputs go through the model at once.
        of: what drops: the softmax "probability", or the "logit" alone, which knows nothing of the other
            answers. (Log-odds would rank pieces as the probability does.)
        label: whose it is, for the table.
    """

    part: Part
    share: float = 0.1
    together: int = 64
    of: Literal["probability", "logit"] = "probability"
    label: str = "the predicted label"
    title: str = field(default="Blank-out", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.together < 1:
            raise InputError(
                f"share must lie in 0..1 and together be at least 1, got {self.share} and {self.together}"
            )
        if self.of not in ("probability", "logit"):
            raise InputError(f'"of" must be "probability" or "logit", got "{self.of}"')

    def drops(self, ask: Ask, inputs: Inputs, labels: Int[Tensor, "row"] | None = None) -> Tensor:
        """The drop at each piece, (row, piece), on the CPU; what cannot be taken has 0.

        Args:
            labels: None: the predicted ones.
        """
        labels = _answered(ask, inputs).argmax(1) if labels is None else labels.cpu()
        whole = self._value(ask, inputs, labels)
        movable = self.part.movable(inputs)
        places = movable.nonzero()
        left = torch.zeros(movable.shape, dtype=whole.dtype)
        for rows, pieces in (chunk.T for chunk in places.split(self.together)):
            gone = torch.nn.functional.one_hot(pieces, movable.shape[1]).bool()
            without = self.part.without(picked(inputs, rows), gone)
            left[rows.cpu(), pieces.cpu()] = self._value(ask, without, labels[rows.cpu()])
        drops = whole[:, None] - left
        return torch.where(movable.cpu(), drops, 0.0).float()

    def measure(self, inputs: Inputs, drops: Float[Tensor, "row piece"], values: Tensor) -> Measured:
        """Columns "spearman", "common" and "pieces", one value a row.

        A constant map says nothing: its correlation is 0. Rows with equal drops, or fewer than three
        pieces, have NaN.
        """
        movable = self.part.movable(inputs).cpu()
        found = flat(values, movable)
        known = varies(drops, movable) & (movable.sum(1) >= 3)
        agreed = torch.where(varies(found, movable), spearman(drops, found, movable), 0.0)
        return {
            "spearman": torch.where(known, agreed, torch.nan),
            "common": torch.where(known, common(drops, found, movable, self.share), torch.nan),
            "pieces": movable.sum(1).float(),
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Mean and standard deviation of the correlation over rows, and the part in common."""
        correlation = column(columns["spearman"], "spearman")
        return {
            "Spearman": mean(correlation),
            "Spearman, deviation": deviation(correlation),
            f"top {self.share:.0%} in common": mean(column(columns["common"], "common")),
        }

    def by_pieces(self, columns: Columns, bounds: Sequence[int]) -> dict[str, Estimate]:
        """The correlation of rows by how many pieces they have, from each bound to below the next."""
        pieces, correlation = column(columns["pieces"], "pieces"), column(columns["spearman"], "spearman")
        return {
            f"Spearman, {low} to {high - 1} pieces": mean(correlation[(pieces >= low) & (pieces < high)])
            for low, high in pairwise(bounds)
        }

    @property
    def told(self) -> Told:
        """How pieces are taken, what drops, and how ranks are compared."""
        return self.part.told | {
            "drop of": f"the {self.of} of {self.label}",
            "correlation": "Spearman within a row; a constant map has 0",
            "top": f"{self.share:g} of the pieces, at least one",
        }

    def _value(self, ask: Ask, inputs: Inputs, labels: Int[Tensor, "row"]) -> Float[Tensor, "row"]:
        """What drops, of each row's own label."""
        logits = _answered(ask, inputs)
        return chosen(logits.softmax(1) if self.of == "probability" else logits, labels)


def _answered(ask: Ask, inputs: Inputs) -> Float[Tensor, "row label"]:
    """Logits in float64: in float32 a sure answer's probability would be 1 whatever is taken away."""
    with torch.no_grad():
        return answers(ask, inputs).cpu().double()


@dataclass(frozen=True)
class Pairwise:
    """How far methods agree with each other: Spearman's correlation of every two maps, row by row."""

    title: str = field(default="Agreement between methods", kw_only=True)

    def measure(self, maps: Mapping[str, Tensor], movable: Bool[Tensor, "row piece"]) -> dict[str, Measured]:
        """For each two methods, named "a ~ b", the column "spearman"; NaN where either map is constant."""
        movable = movable.cpu()
        own = {name: flat(values, movable) for name, values in maps.items()}
        return {
            f"{one} ~ {other}": {"spearman": spearman(own[one], own[other], movable)}
            for one, other in combinations(own, 2)
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Mean and standard deviation over rows."""
        values: np.ndarray = column(columns["spearman"], "spearman")
        return {"Spearman": mean(values), "Spearman, deviation": deviation(values)}

    @property
    def told(self) -> Told:
        """What is correlated."""
        return {"correlation": "Spearman within a row; rows with a constant map are left out"}
