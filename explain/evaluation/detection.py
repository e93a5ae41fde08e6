"""Detection: whether the masks cut out of boxes' relevance are those of the things that the boxes show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import InputError
from .asking import Ask, Inputs
from .intervals import Estimate, column, mean
from .localisation import MaskFromRelevance, box_iou, box_of, mask_iou
from .parts import Told
from .precision import DetectionPrecision, Detections
from .records import Columns, Measured
from .study import Asked

QUERY: Final = "query"
"""The entry of `Batch.beside` that says which box is meant."""
NOTHING: Final = -1
"""The label of what is not there, where an image has fewer things than another."""


def boxes_of(model: nn.Module) -> Ask:
    """Ask a DETR what one box of every row shows: labels are its classes, "no object" the last.

    The box is named by its query, `inputs["query"]`; the model is not given that.
    """

    def ask(inputs: Inputs) -> Tensor:
        given = dict(inputs)
        if not isinstance(query := given.pop(QUERY, None), Tensor):
            raise InputError(f'say which box of every row is meant: a tensor "{QUERY}", beside the inputs')
        logits = model(**given).logits
        return logits[torch.arange(len(logits), device=logits.device), query.to(logits.device)]

    return ask


@dataclass(frozen=True, eq=False)
class Things:
    """What the image of every row shows, and the box that the row is about.

    Attributes:
        masks: where each thing is; where there are fewer, empty ones.
        labels: the things' labels, `NOTHING` where there are fewer.
        own: which thing the row's box shows, `NOTHING` where it shows none rightly.
        image: the number of the row's image: boxes of one image are one detection, and no independent rows.
        score, label: how sure the model is of the row's box, and as what.

    Raises:
        InputError: anything that is not one a row, or an own thing that is not there.
    """

    masks: Bool[Tensor, "row thing height width"]
    labels: Int[Tensor, "row thing"]
    own: Int[Tensor, "row"]
    image: Int[Tensor, "row"]
    score: Float[Tensor, "_row"]
    label: Int[Tensor, "_row"]

    def __post_init__(self) -> None:
        parts = (self.labels, self.own, self.image, self.score, self.label)
        if self.masks.shape[:2] != self.labels.shape or {len(one) for one in parts} != {len(self.masks)}:
            raise InputError(
                f"wanted {len(self.masks)} rows of everything, and a label for each of "
                f"{self.masks.shape[1]} things; got {[tuple(one.shape) for one in parts]}"
            )
        right = self.own != NOTHING
        if (self.labels[right, self.own[right]] == NOTHING).any():
            raise InputError("a box shows a thing that is not there")


@dataclass(frozen=True)
class FoundMasks:
    """Segmentation by the relevance of found boxes (Chefer et al. 2021, ICCV, section 4.3).

    Every found box gets the mask that Otsu's threshold cuts out of its relevance. Boxes that show a thing
    rightly: the overlap of both masks, and of their bounds. All boxes: AP of the masks as detections, with
    the model's own scores and labels. Intervals draw whole images.
    """

    cut: MaskFromRelevance = field(default_factory=MaskFromRelevance)
    precision: DetectionPrecision = field(default_factory=DetectionPrecision)
    title: str = field(default="Masks of found boxes", kw_only=True)

    def measure(self, maps: Float[Tensor, "row height width"], things: Things) -> Measured:
        """Columns "mask IoU" and "box IoU" (NaN for a wrong box), and what AP needs."""
        if not maps.isfinite().all() or len(maps) != len(things.masks):
            raise InputError(f"wanted {len(things.masks)} finite maps, got {tuple(maps.shape)}")
        found = self.cut.masks(maps, (things.masks.shape[2], things.masks.shape[3]))
        shared = torch.stack([mask_iou(found, masks) for masks in things.masks.unbind(1)], 1)
        right = things.own != NOTHING
        own = things.own.clamp_min(0)
        truth = things.masks[torch.arange(len(maps)), own]
        bounds = box_iou(box_of(found), box_of(truth))
        return {
            "mask IoU": torch.where(right, shared.gather(1, own[:, None])[:, 0], torch.nan),
            "box IoU": torch.where(right, bounds, torch.nan),
            "overlaps": shared,
            "truth": things.labels,
            "image": things.image,
            "score": things.score,
            "label": things.label,
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Mean overlaps, AP over all thresholds and at .5."""
        images = column(columns["image"], "image").tolist()
        found = {name: mean(column(columns[name], name), groups=images) for name in ("mask IoU", "box IoU")}
        return found | self.precision.estimate(detections(columns))

    @property
    def told(self) -> Told:
        """How masks are cut, and what precision counts."""
        return {**self.cut.told, **self.precision.told, "intervals": "of images, each with all its boxes"}


def detections(columns: Columns) -> list[Detections]:
    """The boxes of every image together, from the columns of `FoundMasks`, in the order of first boxes."""
    images = column(columns["image"], "image")
    score, label = (column(columns[name], name) for name in ("score", "label"))
    truth, overlaps = (column(columns[name], name, 2) for name in ("truth", "overlaps"))
    found = []
    for image in dict.fromkeys(images.tolist()):
        own = np.flatnonzero(images == image)
        there = np.flatnonzero(truth[own[0]] != NOTHING)
        found.append(
            Detections(
                score[own].tolist(),
                label[own].astype(int).tolist(),
                truth[own[0], there].astype(int).tolist(),
                overlaps[np.ix_(own, there)].tolist(),
            )
        )
    return found


@dataclass(frozen=True)
class FoundMasksTest:
    """`FoundMasks` in a study whose rows are boxes, and whose source sets `Batch.extra["things"]`."""

    experiment: FoundMasks = field(default_factory=FoundMasks)
    name: str = "found-masks"
    correct_only: bool = False
    """A wrong box is what AP has to see; overlaps leave it out by themselves."""

    def measure(self, asked: Asked) -> dict[str, Measured]:
        """Of every method's image maps."""
        things = asked.batch.extra.get("things")
        if not isinstance(things, Things):
            raise InputError('this source does not tell what its images show: set Batch.extra["things"]')
        return {name: self.experiment.measure(maps, things) for name, maps in asked.maps("image").items()}


def stacked_things(
    masks: Sequence[Bool[Tensor, "_ height width"]], labels: Sequence[Sequence[int]], own: Sequence[int],
    image: Sequence[int], score: Sequence[float], label: Sequence[int], *, most: int,
) -> Things:  # fmt: skip
    """Things of images that show different numbers of them, filled up to the most that any image has.

    Args:
        most: the same for all batches of a study, whose records have to be alike.

    Raises:
        InputError: an image with more.
    """
    if (longest := max(len(one) for one in labels)) > most:
        raise InputError(f"an image shows {longest} things, but most={most}: say how many there are at most")
    wide = [nn.functional.pad(one, (0, 0, 0, 0, 0, most - len(one))) for one in masks]
    names = [[*one, *[NOTHING] * (most - len(one))] for one in labels]
    there, which, images = (torch.tensor(each) for each in (names, own, image))
    return Things(torch.stack(wide), there, which, images, torch.tensor(score), torch.tensor(label))
