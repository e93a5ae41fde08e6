"""Localisation: whether relevance lies where the thing is, against true masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import InputError
from .asking import Inputs
from .intervals import Estimate, column, mean, pooled
from .parts import Part, Told
from .precision import average_precision
from .ranking import flat
from .records import Columns, Measured

Maps = Float[Tensor, "row height width"]
Masks = Bool[Tensor, "_ high wide"]


@dataclass(frozen=True)
class PointingGame:
    """The pointing game (Zhang et al. 2018): whether the place of the largest value is on the thing.

    The place is the centre of the patch; among several equal ones each counts alike. Beside it stand the part
    of the positive relevance that lies on the thing, and what chance would give: the thing's own part of the
    image.

    Attributes:
        tolerance: a hit may be so many pixels off.
    """

    tolerance: int = 0
    title: str = field(default="Pointing game", kw_only=True)

    def measure(self, maps: Maps, masks: Masks) -> Measured:
        """Columns "hit", "inside" and "chance", all 0..1."""
        _check(maps, masks)
        near = _grown(masks, self.tolerance)
        rows, wide = (
            ((torch.arange(count) + 0.5) * size / count).long()
            for count, size in zip(maps.shape[1:], masks.shape[1:], strict=True)
        )
        on = near[:, rows][:, :, wide].float()
        best = (maps == maps.amax((1, 2), keepdim=True)).float()
        positive = maps.clamp_min(0)
        total = positive.sum((1, 2))
        covered = (positive * coverage(masks, (maps.shape[1], maps.shape[2]))).sum((1, 2))
        return {
            "hit": (best * on).sum((1, 2)) / best.sum((1, 2)),
            "inside": torch.where(total > 0, covered / total.clamp_min(1e-30), 0.0),
            "chance": near.float().mean((1, 2)),
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Hits, relevance inside, and hits less chance."""
        hit, inside, chance = (column(columns[name], name) for name in ("hit", "inside", "chance"))
        return {
            "pointing": mean(hit),
            "relevance inside": mean(inside),
            "pointing - chance": mean(hit - chance),
        }

    @property
    def told(self) -> Told:
        """Where a map points, and how far off it may be."""
        return {
            "points at": "the centre of the largest patch; ties share",
            "tolerance, pixels": self.tolerance,
        }


@dataclass(frozen=True)
class PointingAtPieces:
    """The pointing game on words or regions: whether the most relevant one is among those that decide.

    Attributes:
        part: whose pieces they are; what cannot be taken away (padding, what opens a text) is no choice.
    """

    part: Part
    title: str = field(default="Pointing at words or regions", kw_only=True)

    def measure(
        self, inputs: Inputs, values: Float[Tensor, "row piece"], deciding: Bool[Tensor, "row piece"]
    ) -> Measured:
        """Columns "hit", "inside" and "chance", as of `PointingGame`; NaN in rows where nothing decides."""
        movable = self.part.movable(inputs).cpu()
        found = flat(values, movable)
        held, on = found.masked_fill(~movable, -torch.inf), (deciding.cpu() & movable).float()
        best = (held == held.amax(1, keepdim=True)).float() * movable
        positive = found.clamp_min(0) * movable
        total = positive.sum(1)
        columns = {
            "hit": (best * on).sum(1) / best.sum(1),
            "inside": torch.where(total > 0, (positive * on).sum(1) / total.clamp_min(1e-30), 0.0),
            "chance": on.sum(1) / movable.sum(1),
        }
        return {name: torch.where(on.any(1), one, torch.nan) for name, one in columns.items()}

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Hits, relevance inside, and hits less chance."""
        return PointingGame().summary(columns)

    @property
    def told(self) -> Told:
        """What a map points at."""
        return {"points at": "the piece of largest relevance; ties share; padding is no choice"}


@dataclass(frozen=True)
class Segmentation:
    """Segmentation by relevance (the ImageNet-Segmentation protocol of Chefer et al. 2021, CVPR).

    Maps are enlarged bilinearly to the masks' size; foreground is what lies above the map's own mean. Pixel
    accuracy and mIoU (mean of foreground and background) are pooled over all rows; mAP is the mean over rows
    of the average precision of [relevance, 1 - relevance], stretched to 0..1, for both classes together.
    """

    title: str = field(default="Segmentation", kw_only=True)

    def measure(self, maps: Maps, masks: Masks) -> Measured:
        """Columns "right", "shared" and "joined" (pixels of background and foreground), "AP"."""
        _check(maps, masks)
        large = nn.functional.interpolate(
            maps[:, None], size=masks.shape[1:], mode="bilinear", align_corners=False
        )[:, 0]
        found = large > large.mean((1, 2), keepdim=True)
        sides = [(~found, ~masks), (found, masks)]
        heat = stretched(large).double().numpy()
        precision = [
            average_precision(np.stack([1 - one, one]).ravel(), np.stack([~truth, truth]).ravel())
            for one, truth in zip(heat, masks.numpy(), strict=True)
        ]
        return {
            "right": (found == masks).float().mean((1, 2)),
            "shared": torch.stack([(one & truth).sum((1, 2)) for one, truth in sides], 1).float(),
            "joined": torch.stack([(one | truth).sum((1, 2)) for one, truth in sides], 1).float(),
            "AP": torch.tensor(precision),
        }

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Pixel accuracy, mIoU, mAP."""
        shared, joined = (column(columns[name], name, 2) for name in ("shared", "joined"))
        return {
            "pixel accuracy": mean(column(columns["right"], "right")),
            "mIoU": pooled(shared, joined),
            "foreground IoU": pooled(shared[:, 1:], joined[:, 1:]),
            "mAP": mean(column(columns["AP"], "AP")),
        }

    @property
    def told(self) -> Told:
        """Threshold, enlarging, pooling."""
        return {
            "threshold": "above the mean of the map",
            "maps enlarged": "bilinearly",
            "pooling": "pixel accuracy and IoU over all pixels of the set, AP by image",
        }


@dataclass(frozen=True)
class MaskFromRelevance:
    """Masks that Otsu's threshold cuts out of relevance, for DETR (Chefer et al. 2021, ICCV)."""

    title: str = field(default="Masks of relevance", kw_only=True)

    def measure(self, maps: Maps, masks: Masks) -> Measured:
        """Columns "mask IoU" and "box IoU", of the masks' bounds."""
        _check(maps, masks)
        found = self.masks(maps, (masks.shape[1], masks.shape[2]))
        return {"mask IoU": mask_iou(found, masks), "box IoU": box_iou(box_of(found), box_of(masks))}

    def masks(self, maps: Maps, size: tuple[int, int]) -> Bool[Tensor, "row _ _"]:
        """What lies above the threshold, enlarged to pixels (height, width) without smoothing."""
        found = otsu(maps)[:, None].float()
        return nn.functional.interpolate(found, size=size, mode="nearest")[:, 0] > 0

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """Mean IoU of masks and of boxes."""
        return {name: mean(column(columns[name], name)) for name in ("mask IoU", "box IoU")}

    @property
    def told(self) -> Told:
        """The threshold."""
        return {"threshold": "Otsu's, of 256 levels, on the grid of the map"}


def coverage(masks: Masks, grid: tuple[int, int]) -> Float[Tensor, "row _ _"]:
    """Which part of each patch a mask covers, 0..1."""
    return nn.functional.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]


def stretched(maps: Maps) -> Maps:
    """Each map from its least value, 0, to its largest, 1; constant maps are 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def otsu(maps: Maps) -> Bool[Tensor, "row height width"]:
    """What lies above the threshold that parts a map best: largest variance between both sides (Otsu 1979).

    Maps are stretched to 256 levels. Of a constant map nothing lies above.
    """
    levels = (stretched(maps) * 255).round().long()
    counts = nn.functional.one_hot(levels.flatten(1), 256).sum(1).double()
    heat = torch.arange(256, device=maps.device).double()
    below, total = counts.cumsum(1), counts.sum(1, keepdim=True)
    sums = (counts * heat).cumsum(1)
    between = (sums * total - below * sums[:, -1:]) ** 2 / (below * (total - below)).clamp_min(1e-12)
    # A run of empty levels between the sides is one optimum: its first level parts them as well as any.
    return levels > between.argmax(1)[:, None, None]


def mask_iou(masks: Masks, others: Masks) -> Float[Tensor, "row"]:
    """Shared over joined pixels; 0 where both are empty."""
    shared, joined = (masks & others).sum((1, 2)), (masks | others).sum((1, 2))
    return shared / joined.clamp_min(1)


def box_of(masks: Masks) -> Float[Tensor, "row corner=4"]:
    """The bounds of masks in pixels: left, top, right, bottom, the last two exclusive; 0 for an empty one."""
    ends = []
    for axis in (1, 2):
        line = masks.any(axis).int()
        size = line.shape[1]
        first, last = line.argmax(1), size - line.flip(1).argmax(1)
        ends.append(torch.stack([first, last], 1) * line.any(1, keepdim=True))
    (left, right), (top, bottom) = (each.unbind(1) for each in ends)
    return torch.stack([left, top, right, bottom], 1).float()


def box_iou(
    boxes: Float[Tensor, "row corner=4"], others: Float[Tensor, "row corner=4"]
) -> Float[Tensor, "row"]:
    """Shared over joined area of boxes (left, top, right, bottom); 0 where both are empty."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp_min(0).prod(1)
    areas = sum((each[:, 2:] - each[:, :2]).prod(1) for each in (boxes, others))
    return shared / (areas - shared).clamp_min(1e-12)


def _grown(masks: Masks, by: int) -> Masks:
    if by == 0:
        return masks
    return nn.functional.max_pool2d(masks[:, None].float(), 2 * by + 1, stride=1, padding=by)[:, 0] > 0


def _check(maps: Tensor, masks: Tensor) -> None:
    """Refuse maps and masks that do not belong together, and masks without a thing.

    Raises:
        InputError: says which.
    """
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise InputError(
            f"wanted maps (row, height, width) and as many masks; got {tuple(maps.shape)} and "
            f"{tuple(masks.shape)}"
        )
    if any(mask < own for mask, own in zip(masks.shape[1:], maps.shape[1:], strict=True)):
        raise InputError(
            f"masks {tuple(masks.shape[1:])} must not be smaller than maps {tuple(maps.shape[1:])}"
        )
    if not maps.isfinite().all():
        raise InputError("the maps hold NaN or infinite values")
    empty = ~masks.flatten(1).any(1)
    if empty.any():
        raise InputError(f"mask {int(empty.int().argmax())} is empty: there is nothing to find")
