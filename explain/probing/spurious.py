"""Finds patches that an answer rests on and that are no part of the subject: candidates for a cheat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import InputError
from ..models.family import Target
from ..relevance import explain, versions
from .sift import Concentration
from .sift_attention import check_keypoints
from .tower import tower_of

RULES: Final = {
    "apart": "outside the largest cluster of keypoints",
    "little": "with little concentration of keypoints",
    "off": "outside the mask of the subject",
}
"""Where a patch with high relevance is suspicious."""
ABOVE: Final = 10.0
"""How many times the mean a patch's relevance must be; from scenes that no figure of the docs rests on."""


@dataclass(frozen=True, eq=False)
class Spurious:
    """Patches that one answer for each image rests on although they are no part of its subject.

    A reconstruction of the "spurious correlation discovery" of arXiv 2211.08543, whose abstract alone is
    public: rules and thresholds are ours.

    Attributes:
        flagged: the patches.
        relevance: of every patch, over the mean of its image: 1 is even, negative relevance counts as 0.
        subject: where the rule does not look: what it takes for the subject.
        targets: what was explained, and `scores`, the model's own.
        rule: of `RULES`; `method`, of `heedful.explain.METHODS`.
        model, settings, versions: where this comes from.
    """

    flagged: Bool[Tensor, "image height width"]
    relevance: Float[Tensor, "image height width"]
    subject: Bool[Tensor, "image height width"]
    targets: tuple[str, ...]
    scores: tuple[float, ...]
    rule: str
    method: str
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> Bool[Tensor, "image"]:
        """Which images hold such a patch."""
        return self.flagged.flatten(1).any(1)

    @property
    def share(self) -> Float[Tensor, "image"]:
        """The share of each image's relevance that lies on flagged patches, 0 to 1."""
        return (self.relevance * self.flagged).sum((1, 2)) / self.relevance.sum((1, 2)).clamp_min(1e-12)


def find_spurious(
    model: nn.Module,
    inputs: Mapping[str, Any],
    keypoints: Concentration | None = None,
    *,
    masks: Bool[Tensor, "image height width"] | None = None,
    rule: str | None = None,
    target: Target = None,
    method: str = "libra",
    above: float = ABOVE,
    little: float = 0.25,
    **settings: Any,
) -> Spurious:
    """Flag patches of high relevance that lie off the subject.

    A patch is flagged if its relevance is more than `above` times the image's mean, and it lies outside the
    largest cluster of keypoints ("apart", see `main_cluster`), or holds less than `little` times the mean of
    the keypoints ("little"), or lies outside a mask of the subject ("off"). A mark with contours has many
    keypoints, so that "little" overlooks it: that rule is for backgrounds.

    Args:
        model: with patches that attend to each other, of a family that `explain` knows.
        inputs: as the model takes them, one row for each image.
        keypoints: of the same images on the model's grid; needed by "apart" and "little".
        masks: where the subject is, in the model's pixels; needed by "off".
        rule: of `RULES`; None is "off" with masks, else "apart".
        target, method, settings: as of `explain`; None explains the predicted class.

    Raises:
        InputError: for what the rule needs and lacks, masks of another size, keypoints of other images, an
            image without keypoints, or several targets for an image.
        ExplainError: whatever `explain` and `tower_of` refuse.
    """
    tower = tower_of(model)
    taken = tower.inputs(inputs)
    pixels = taken["pixel_values"]
    grid = tower.grid(pixels)
    rule = rule or ("apart" if masks is None else "off")
    _check(rule, keypoints, masks, above, little)
    subject = _subject(rule, keypoints, masks, little, len(pixels), grid, tuple(pixels.shape[2:]))
    found = explain(model, inputs, target, method, **settings)
    if found.image is None or tuple(found.image.shape) != (len(pixels), *grid):
        raise InputError(
            f"wanted one target for each of {len(pixels)} images, got {len(found.targets)} targets: "
            f"{', '.join(found.targets[:4])}"
        )
    relevance = found.image.clamp_min(0)
    relevance = relevance / relevance.mean((1, 2), keepdim=True).clamp_min(1e-12)
    return Spurious(
        flagged=(relevance > above) & ~subject,
        relevance=relevance,
        subject=subject,
        targets=found.targets,
        scores=found.scores,
        rule=rule,
        method=method,
        model=found.model,
        settings={**found.settings, "above": above, "little": little}
        | ({} if keypoints is None else {"keypoints": dict(keypoints.settings)}),
        versions={**versions(), **(keypoints.versions if keypoints else {})},
    )


def main_cluster(count: Float[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """The patches of the largest cluster of keypoints: what there is most to see of, most likely the subject.

    Patches with keypoints that touch, also at corners, are a cluster; the largest is the one with most
    keypoints. Holes in it are filled (what is smooth within a subject), and the next patch on each side
    belongs to it.

    Raises:
        InputError: where there is no keypoint.
    """
    from scipy import ndimage

    values = count.double().cpu().numpy()
    if not values.sum() > 0:
        raise InputError("without a keypoint there is no cluster of keypoints; lower the contrast")
    labels, number = ndimage.label(values > 0, np.ones((3, 3)))
    sums = ndimage.sum(values, labels, range(1, number + 1))
    found = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sums)))
    return torch.from_numpy(ndimage.binary_dilation(found))


def touched_by(
    masks: Bool[Tensor, "image height width"], grid: tuple[int, int]
) -> Bool[Tensor, "image _rows _columns"]:
    """Which patches of a grid hold any pixel of a mask."""
    return nn.functional.adaptive_max_pool2d(masks[:, None].float(), grid)[:, 0] > 0


def _subject(
    rule: str,
    keypoints: Concentration | None,
    masks: Tensor | None,
    little: float,
    images: int,
    grid: tuple[int, int],
    size: tuple[int, ...],
) -> Bool[Tensor, "image height width"]:
    """Where the rule does not look."""
    if rule == "off":
        assert masks is not None
        if tuple(masks.shape) != (images, *size):
            raise InputError(
                f"wanted masks of {images} images in the model's pixels {size}, got shape "
                f"{tuple(masks.shape)}"
            )
        if not masks.flatten(1).any(1).all():
            raise InputError(
                "a mask is empty: all of its image would be off the subject; leave that image out"
            )
        return touched_by(masks.cpu(), grid)
    assert keypoints is not None
    check_keypoints(keypoints, images, grid)
    weights = keypoints.weights()  # refuses images without keypoints, by their numbers
    if rule == "little":
        return weights * (grid[0] * grid[1]) >= little
    return torch.stack([main_cluster(one) for one in keypoints.count])


def _check(
    rule: str, keypoints: Concentration | None, masks: Tensor | None, above: float, little: float
) -> None:
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}; got {rule!r}")
    if rule == "off" and masks is None:
        raise InputError('the rule "off" needs masks of the subject; without any take "apart"')
    if rule != "off" and keypoints is None:
        raise InputError(f'the rule "{rule}" needs keypoints: concentration(images, grid) finds them')
    if not (above > 0 and little >= 0):
        raise InputError(f"above must be positive and little at least 0, got {above} and {little}")
