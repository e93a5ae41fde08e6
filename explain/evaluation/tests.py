"""Tests: what each protocol is given of a batch, so that a study can run them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import InputError
from .attack import MaskedAttack, drawn_targets
from .blank_out import BlankOut, Pairwise
from .localisation import MaskFromRelevance, PointingAtPieces, PointingGame, Segmentation
from .parts import Part
from .perturbation import DeletionInsertion, Perturbation
from .records import Measured
from .specificity import ClassSpecificity
from .study import Asked, Kind, Whose


@dataclass(frozen=True)
class PerturbationTest:
    """Perturbation of one modality, or of several at once.

    Attributes:
        kinds: of which map each part of the protocol goes by, in their order. Methods and controls without
            one of these maps are not measured.
    """

    experiment: Perturbation
    kinds: tuple[Kind, ...] = ("image",)
    name: str = "perturbation"
    correct_only: bool = False

    def __post_init__(self) -> None:
        if len(self.kinds) != len(self.experiment.parts):
            raise InputError(
                f"wanted one kind of map for each of {len(self.experiment.parts)} parts, got {self.kinds}"
            )

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Both curves, against the truth."""
        truth = asked.batch.truth
        if truth is None:
            raise InputError("perturbation needs the right labels: set Batch.truth")
        maps = [asked.maps(kind) for kind in self.kinds]
        shared = [name for name in maps[0] if all(name in each for each in maps)]
        return {
            name: self.experiment.measure(
                asked.ask, asked.batch.asked, truth, [each[name] for each in maps]
            )
            for name in shared
        }  # fmt: skip


@dataclass(frozen=True)
class DeletionInsertionTest:
    """Deletion and insertion, of the probability of the target."""

    experiment: DeletionInsertion
    kind: Kind = "image"
    name: str = "deletion-insertion"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Both curves."""
        batch = asked.batch
        return {
            name: self.experiment.measure(asked.ask, batch.asked, batch.labels, values)
            for name, values in asked.maps(self.kind).items()
        }


@dataclass(frozen=True)
class BlankOutTest:
    """Blank-out of the target's answer; the drops are found once for all methods."""

    experiment: BlankOut
    kind: Kind = "image"
    name: str = "blank-out"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Correlations with the drops."""
        batch = asked.batch
        drops = self.experiment.drops(asked.ask, batch.asked, batch.labels)
        return {
            name: self.experiment.measure(batch.asked, drops, values)
            for name, values in asked.maps(self.kind).items()
        }


@dataclass(frozen=True)
class AgreementTest:
    """Correlation of every two methods' maps.

    Attributes:
        part: whose pieces are compared; None: all patches of an image.
    """

    experiment: Pairwise = field(default_factory=Pairwise)
    kind: Kind = "image"
    part: Part | None = None
    name: str = "agreement"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """By pairs, controls included."""
        maps = asked.maps(self.kind)
        return self.experiment.measure(maps, self._movable(asked, maps))

    def _movable(self, asked: Asked, maps: Mapping[str, Tensor]) -> Bool[Tensor, "row piece"]:
        if self.part is not None:
            return self.part.movable(asked.batch.asked)
        return torch.ones(next(iter(maps.values())).flatten(1).shape, dtype=torch.bool)


@dataclass(frozen=True)
class AttackTest:
    """The masked attack towards a class that is drawn for each item; the methods explain the target."""

    experiment: MaskedAttack
    name: str = "masked-attack"
    correct_only: bool = False
    seed: int = 0

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Steps inside and outside."""
        batch, labels = asked.batch, asked.answered.shape[1]
        targets = drawn_targets(asked.predicted, labels, batch.items, self.seed)
        return {
            name: self.experiment.measure(asked.ask, batch.asked, targets, values)
            for name, values in asked.maps("image").items()
        }


@dataclass(frozen=True)
class PointingTest:
    """The pointing game in images, with the target's masks."""

    experiment: PointingGame = field(default_factory=PointingGame)
    of: Whose = "own"
    name: str = "pointing"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Hits."""
        masks = _masks(asked, self.of)
        maps = asked.maps("image", self.of)
        return {name: self.experiment.measure(values, masks) for name, values in maps.items()}


@dataclass(frozen=True)
class PiecePointingTest:
    """The pointing game on words or regions, with those that decide: `Batch.pieces`, or one of its extras.

    Attributes:
        pieces: None: `Batch.pieces`; else the name in `Batch.extra`.
    """

    experiment: PointingAtPieces
    kind: Literal["text", "regions"] = "text"
    pieces: str | None = None
    name: str = "pointing"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Hits."""
        batch = asked.batch
        deciding = batch.pieces if self.pieces is None else batch.extra.get(self.pieces)
        if deciding is None:
            raise InputError(
                f"this source does not say which pieces decide: set Batch.{self.pieces or 'pieces'}"
            )
        return {
            name: self.experiment.measure(batch.asked, values, deciding)
            for name, values in asked.maps(self.kind).items()
        }


@dataclass(frozen=True)
class SegmentationTest:
    """Segmentation by the maps, or masks cut out by Otsu's threshold, against the target's masks."""

    experiment: Segmentation | MaskFromRelevance = field(default_factory=Segmentation)
    name: str = "segmentation"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Overlaps."""
        masks = _masks(asked, "own")
        maps = asked.maps("image")
        return {name: self.experiment.measure(values, masks) for name, values in maps.items()}


@dataclass(frozen=True)
class SpecificityTest:
    """Class specificity, from the relevance for both subjects of every row."""

    experiment: ClassSpecificity = field(default_factory=ClassSpecificity)
    name: str = "specificity"
    correct_only: bool = False

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Own against other."""
        masks = (_masks(asked, "own"), _masks(asked, "other"))
        own, other = asked.maps("image"), asked.maps("image", "other")
        return {
            name: self.experiment.measure((values, other[name]), masks)
            for name, values in own.items()
            if name in other
        }


def _masks(asked: Asked, of: Whose) -> Bool[Tensor, "row height width"]:
    found = asked.batch.masks if of == "own" else asked.batch.other_masks
    if found is None:
        name = "masks" if of == "own" else "other_masks"
        raise InputError(f"this source does not say where the subjects are: set Batch.{name}")
    return found
