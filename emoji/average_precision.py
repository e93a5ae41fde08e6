"""Average precision of boxes, the figure that detectors are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import DetrForObjectDetection


@dataclass(frozen=True)
class Boxes:
    """What is, or is claimed to be, in one image."""

    names: tuple[str, ...]
    corners: Float[np.ndarray, "box 4"]
    """Left, top, right, bottom in pixels."""
    scores: Float[np.ndarray, "box"] | None = None
    """How sure each claim is; None for the truth."""


def overlap(
    first: Float[np.ndarray, "one 4"], second: Float[np.ndarray, "other 4"]
) -> Float[np.ndarray, "one other"]:
    """Intersection over union of every two boxes, 0 to 1."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def average_precision(
    claimed: Sequence[Boxes], true: Sequence[Boxes], threshold: float = 0.5
) -> dict[str, float]:
    """The average precision, 0 to 1, of every class that is truly somewhere.

    As in PASCAL VOC 2010 (Everingham et al. 2015, section 4.2): over all images, surest claim first, each
    claim is right that overlaps a true box of its class in its image by at least `threshold` which no surer
    one took; the area under precision by recall, where the precision at a recall is the best at that or any
    higher recall.
    """
    classes = sorted({name for one in true for name in one.names})
    return {name: _precision_area(*_judged(claimed, true, name, threshold)) for name in classes}


@torch.no_grad()
def detect(model: DetrForObjectDetection, images: UInt8[Tensor, "image height width rgb"]) -> list[Boxes]:
    """All boxes of a DETR, one a query, each with its likeliest class and that class's probability."""
    height, width = images.shape[1:3]
    found = []
    for part in images.split(100):
        pixels = part.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        outputs = model(pixel_values=pixels.to(model.device, model.dtype))
        sure, kinds = outputs.logits.float().softmax(-1)[..., :-1].max(-1)
        centre, size = outputs.pred_boxes.float().split(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1).cpu()
        corners = corners * torch.tensor([width, height, width, height])
        for own, scores, boxes in zip(kinds.tolist(), sure.cpu().numpy(), corners.numpy(), strict=True):
            found.append(Boxes(tuple(model.config.id2label[kind] for kind in own), boxes, scores))
    return found


def _judged(
    claimed: Sequence[Boxes], true: Sequence[Boxes], name: str, threshold: float
) -> tuple[np.ndarray, int]:
    """Whether each claim of a class is right, surest first, and how many boxes of it there are."""
    claims, there = [], 0
    for image, (one, truth) in enumerate(zip(claimed, true, strict=True)):
        if one.scores is None:
            raise ValueError(f"the claims of image {image} have no scores")
        own = [at for at, other in enumerate(one.names) if other == name]
        real = [at for at, other in enumerate(truth.names) if other == name]
        there += len(real)
        shared = overlap(one.corners[own], truth.corners[real])
        claims += [(one.scores[at], image, row) for at, row in zip(own, shared, strict=True)]
    taken: set[tuple[int, int]] = set()
    right = []
    for _, image, row in sorted(claims, key=lambda claim: -claim[0]):
        best = int(row.argmax()) if len(row) else -1
        hit = best >= 0 and row[best] >= threshold and (image, best) not in taken
        right.append(hit)
        if hit:
            taken.add((image, best))
    return np.array(right, dtype=bool), there


def _precision_area(right: np.ndarray, there: int) -> float:
    found = right.cumsum()
    precision = found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / there)
