"""Average precision: of pixels, and of detections with overlaps (COCO's, with free thresholds)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from .intervals import Estimate, bootstrap
from .parts import Told
from .table import Table, entry_of

RECALLS: Final = np.linspace(0, 1, 101)


def average_precision(scores: Float[np.ndarray, "pixel"], truth: Bool[np.ndarray, "pixel"]) -> float:
    """The sum over thresholds of (recall - recall before) x precision; equal scores are one threshold.

    NaN where nothing is true.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = truth[order].cumsum()[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float(np.diff(hits, prepend=0) @ precision / truth.sum())


@dataclass(frozen=True)
class Detections:
    """What was found in one image, and how far it overlaps with what is there."""

    scores: Sequence[float]
    labels: Sequence[int]
    truth: Sequence[int]
    """The labels of what is there."""
    overlaps: Sequence[Sequence[float]]
    """IoU of every detection (of its mask, or its box) with everything that is there."""

    def __post_init__(self) -> None:
        wide = {len(row) for row in self.overlaps}
        if not len(self.scores) == len(self.labels) == len(self.overlaps) or wide - {len(self.truth)}:
            raise InputError(
                f"wanted a score, a label and {len(self.truth)} overlaps for each detection; got "
                f"{len(self.scores)} scores, {len(self.labels)} labels, overlaps of {sorted(wide)}"
            )

    @classmethod
    def of_masks(
        cls, scores: Sequence[float], labels: Sequence[int], masks: Bool[Tensor, "found height width"],
        truth: Sequence[int], there: Bool[Tensor, "true height width"],
    ) -> Detections:  # fmt: skip
        """Detections with their masks, against the masks of what is there."""
        found, real = masks.flatten(1).float(), there.flatten(1).float()
        shared = found @ real.T
        joined = found.sum(1)[:, None] + real.sum(1) - shared
        return cls(scores, labels, truth, (shared / joined.clamp_min(1)).tolist())


@dataclass(frozen=True)
class DetectionPrecision:
    """AP of detections: the mean over labels and IoU thresholds of the 101-point interpolated precision.

    As COCO has it, without areas and crowds: surest first, a detection takes the free truth of its label in
    its image with which it overlaps most, if at least by the threshold. For masks made of relevance Chefer et
    al. 2021 (ICCV) begin at an IoU of .2.
    """

    thresholds: tuple[float, ...] = tuple(round(0.2 + 0.05 * step, 2) for step in range(16))
    draws: int = 200
    title: str = field(default="Detection", kw_only=True)

    def estimate(self, images: Sequence[Detections]) -> dict[str, Estimate]:
        """AP over all thresholds, and at .5; bootstrap over images.

        Raises:
            InputError: where nothing is there in any image.
        """
        labels = sorted({label for image in images for label in image.truth})
        if not labels:
            raise InputError("no image has anything that could be found")
        thresholds = tuple(dict.fromkeys((*self.thresholds, 0.5)))
        # An image with nothing of a label says nothing of it, and a bootstrap passes over all images often.
        places = {label: [at for at, one in enumerate(images) if _concerns(one, label)] for label in labels}
        own = {label: [_matched(images[at], label, thresholds) for at in places[label]] for label in labels}

        def all_of(kept: tuple[int, ...], weights: Float[np.ndarray, "draw row"]) -> np.ndarray:
            found = [[_precision(own[one], row[places[one]], kept) for one in labels] for row in weights]
            return np.array([np.nanmean(each) if not np.isnan(each).all() else np.nan for each in found])

        every = tuple(thresholds.index(one) for one in self.thresholds)
        half = (thresholds.index(0.5),)
        return {
            "AP": bootstrap(lambda weights: all_of(every, weights), len(images), self.draws),
            "AP50": bootstrap(lambda weights: all_of(half, weights), len(images), self.draws),
        }

    def table(self, images: Mapping[str, Sequence[Detections]], model: str) -> Table:
        """The table of several methods, each with its detections of all images."""
        entries = [
            entry_of(method, model, figure, estimate)
            for method, own in images.items()
            for figure, estimate in self.estimate(own).items()
        ]
        return Table(self.title, self.told, tuple(entries))

    @property
    def told(self) -> Told:
        """The thresholds, and how precision is read."""
        return {
            "IoU": f"{self.thresholds[0]:g} to {self.thresholds[-1]:g}, {len(self.thresholds)} thresholds",
            "precision": "interpolated at 101 recalls, mean over labels",
        }


_Matched = tuple[Float[np.ndarray, "_"], Bool[np.ndarray, "_ threshold"], int]
"""Of one label in one image: scores, hit or not at each threshold, how many are there."""


def _concerns(image: Detections, label: int) -> bool:
    return label in image.truth or label in image.labels


def _matched(image: Detections, label: int, thresholds: Sequence[float]) -> _Matched:
    own = [place for place, one in enumerate(image.labels) if one == label]
    there = [place for place, one in enumerate(image.truth) if one == label]
    own.sort(key=lambda place: -image.scores[place])
    overlaps = np.array([[image.overlaps[place][one] for one in there] for place in own])
    overlaps = overlaps.reshape(len(own), len(there))
    hits = np.zeros((len(own), len(thresholds)), dtype=bool)
    for column, threshold in enumerate(thresholds):
        free = np.ones(len(there), dtype=bool)
        for row, overlap in enumerate(overlaps):
            open_ = np.where(free, overlap, -1.0)
            if len(there) and open_.max() >= threshold:
                free[open_.argmax()] = False
                hits[row, column] = True
    return np.array([image.scores[place] for place in own], dtype=float), hits, len(there)


def _precision(images: Sequence[_Matched], weights: Float[np.ndarray, "row"], kept: Sequence[int]) -> float:
    """AP of one label over images that count `weights` times; NaN where none has it."""
    total = sum(weight * count for weight, (_, _, count) in zip(weights, images, strict=True))
    if total == 0:
        return float("nan")
    scores = np.concatenate([scores for scores, _, _ in images])
    hits = np.concatenate([hits for _, hits, _ in images])[:, list(kept)]
    counts = np.concatenate(
        [np.full(len(scores), w) for w, (scores, _, _) in zip(weights, images, strict=True)]
    )
    order = np.argsort(-scores, kind="stable")
    right = (counts[:, None] * hits)[order].cumsum(0)
    seen = np.maximum(counts[order].cumsum(), 1e-12)[:, None]
    return float(
        np.mean([_interpolated(right[:, one] / total, (right / seen)[:, one]) for one in range(len(kept))])
    )


def _interpolated(recall: Float[np.ndarray, "detection"], precision: Float[np.ndarray, "detection"]) -> float:
    """The mean over 101 recalls of the best precision at that recall or a larger one."""
    if not len(recall):
        return 0.0
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS - 1e-12, side="left")
    return float(np.append(best, 0.0)[places].mean())
