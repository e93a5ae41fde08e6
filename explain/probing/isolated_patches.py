"""What a patch's feature owes to the patch itself: maps of features with all other patches taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..evaluation.parts import Colour, Fill
from ..evaluation.ranking import spearman
from ..relevance import versions
from .tower import Tower, tower_of
from .units import Feature, patch_activations, responses


@dataclass(frozen=True, eq=False)
class IsolatedPatches:
    """Maps of features over whole images, and over patches that are each shown alone.

    Attributes:
        whole: each feature at every patch of the image.
        alone: the same where nothing else than that patch was shown.
        fill: what stood in the place of the others, in words.
        model: its class, and the name it was loaded by.
    """

    whole: Float[Tensor, "image feature rows columns"]
    alone: Float[Tensor, "image feature rows columns"]
    features: tuple[Feature, ...]
    fill: str
    model: str
    versions: Mapping[str, str]

    def agreement(self) -> Float[Tensor, "image feature"]:
        """How far the two maps rank an image's patches alike: Spearman's correlation, -1..1.

        Near 1 the feature at a patch is about what the patch shows; near 0 it is about the rest of the image.
        NaN where a map is constant, or has fewer than three patches.
        """
        whole, alone = (each.flatten(2).flatten(0, 1) for each in (self.whole, self.alone))
        there = torch.ones(whole.shape, dtype=torch.bool)
        return spearman(whole, alone, there).unflatten(0, self.whole.shape[:2])


def isolated_patches(
    model: Any,
    pixels: Float[Tensor, "image channel height width"],
    features: Sequence[Feature],
    *,
    fill: Fill | None = None,
    together: int = 64,
) -> IsolatedPatches:
    """Maps of features over images, and over each of their patches shown alone at its own place.

    Ghiasi et al. 2022 (arXiv 2212.06727, section 4) see in maps over whole images that patches keep their
    place through the layers; a patch shown alone tells whether the feature at a place is about that place.
    This second map is an addition of ours. A forward for every patch of every image.

    Args:
        pixels: as the model's processor leaves them.
        fill: what stands in the place of the other patches; the mean colour by default.
        together: how many images go through the model at once.

    Raises:
        UnknownFamilyError: a model without patches.
        InputError: layers or channels that are not there, no image, images that the model cannot take.
    """
    tower, fill = tower_of(model), fill or Colour()
    whole = patch_activations(model, pixels, features, together=together)
    alone = torch.stack([_alone(tower, image[None], features, fill, together) for image in pixels])
    return IsolatedPatches(
        whole=whole,
        alone=alone.unflatten(2, whole.shape[2:]),
        features=tuple(features),
        fill=fill.told,
        model=tower.model,
        versions=versions(),
    )


def only_patch(
    pixels: Float[Tensor, "one channel height width"], patch: tuple[int, int], fill: Fill
) -> Float[Tensor, "patch channel height width"]:
    """The image once for every patch, with all but that patch filled; patches row by row.

    Raises:
        InputError: an image smaller than a patch.
    """
    rows, columns = pixels.shape[2] // patch[0], pixels.shape[3] // patch[1]
    if not rows * columns:
        raise InputError(
            f"the image is {pixels.shape[2]} x {pixels.shape[3]}, smaller than a patch of {patch[0]} x "
            f"{patch[1]}"
        )
    found = torch.where(
        torch.zeros(rows * columns, 1, 1, 1, dtype=torch.bool), pixels.cpu(), fill(pixels.cpu())
    )
    for place in range(rows * columns):
        top, left = (place // columns) * patch[0], (place % columns) * patch[1]
        part = (slice(None), slice(top, top + patch[0]), slice(left, left + patch[1]))
        found[place][part] = pixels[0].cpu()[part]
    return found


@torch.no_grad()
def _alone(
    tower: Tower, image: Tensor, features: Sequence[Feature], fill: Fill, together: int
) -> Float[Tensor, "feature patch"]:
    """Each feature at the one patch that is shown."""
    shown = only_patch(image, tower.patch, fill)
    found = []
    for start in range(0, len(shown), together):
        part = shown[start : start + together]
        places = torch.arange(start, start + len(part))
        rows = torch.arange(len(part))
        answers = responses(tower, part, features)
        found.append(torch.stack([answer.float().cpu()[rows, places] for answer in answers]))
    return torch.cat(found, dim=1)
