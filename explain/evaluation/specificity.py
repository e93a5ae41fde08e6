"""Class specificity: whether the relevance for one subject of a scene leaves the other alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from .intervals import Estimate, column, mean
from .localisation import PointingGame, coverage
from .parts import Told
from .ranking import spearman
from .records import Columns, Measured


@dataclass(frozen=True)
class ClassSpecificity:
    """On scenes with two subjects: relevance for each inside its own mask against inside the other's.

    For each subject the mean positive relevance over its own mask, divided by the sum of that and of the same
    over the other's mask; then the mean of both subjects. A method that gives one and the same map whatever
    the target is has exactly one half, however well it finds subjects; a perfect one has 1, one that confuses
    both 0. A map without positive relevance on either has one half.
    """

    title: str = field(default="Class specificity", kw_only=True)

    def measure(
        self,
        maps: tuple[Float[Tensor, "row height width"], Float[Tensor, "row height width"]],
        masks: tuple[Bool[Tensor, "row high wide"], Bool[Tensor, "row high wide"]],
    ) -> Measured:
        """Columns "own" (0..1), "both" (1 if each leans to its own subject), "pointing" and "alike".

        Args:
            maps: relevance for the first subject of every scene, and for the second.
            masks: where the first subject is, and where the second.

        Raises:
            InputError: masks that are empty, or overlap.
        """
        if (masks[0] & masks[1]).any():
            raise InputError("the masks of two subjects overlap: pass what is visible of each")
        hits = [PointingGame().measure(heat, mask)["hit"] for heat, mask in zip(maps, masks, strict=True)]
        sides = [_own(maps[0], masks[0], masks[1]), _own(maps[1], masks[1], masks[0])]
        every = torch.ones(maps[0].flatten(1).shape, dtype=torch.bool)
        return {
            "own": (sides[0] + sides[1]) / 2,
            "both": ((sides[0] > 0.5) & (sides[1] > 0.5)).float(),
            "pointing": (hits[0] + hits[1]) / 2,
            "alike": spearman(maps[0].flatten(1), maps[1].flatten(1), every),
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Own against other, scenes in which both lean right, pointing, how alike both maps are."""
        names = {
            "own": "own mask against the other's",
            "both": "both lean to their own",
            "pointing": "pointing at the own",
            "alike": "Spearman between the two targets' maps",
        }
        return {figure: mean(column(columns[name], name)) for name, figure in names.items()}

    @property
    def told(self) -> Told:
        """What is compared."""
        return {"compared": "mean positive relevance over visible pixels of the own and of the other subject"}


def _own(
    heat: Float[Tensor, "row height width"],
    own: Bool[Tensor, "row high wide"],
    other: Bool[Tensor, "row high wide"],
) -> Float[Tensor, "row"]:
    inside, outside = (_density(heat, mask) for mask in (own, other))
    total = inside + outside
    return torch.where(total > 0, inside / total.clamp_min(1e-30), 0.5)


def _density(
    heat: Float[Tensor, "row height width"], mask: Bool[Tensor, "row high wide"]
) -> Float[Tensor, "row"]:
    """Mean positive relevance over a mask."""
    part = coverage(mask, (heat.shape[1], heat.shape[2]))
    return (heat.clamp_min(0) * part).sum((1, 2)) / part.sum((1, 2))
