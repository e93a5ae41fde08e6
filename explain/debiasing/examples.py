"""Images with masks as tensors: what debiasing learns from, checked once, and how it is varied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

ENLARGED = 8 / 7
"""256 to 224 pixels, as RobustViT crops."""


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images as a model takes them, each with where its subject is.

    Attributes:
        pixels: (image, channel, height, width), normalised as the model's processor does.
        masks: (image, height, width), 1 or True where the subject is, 0 elsewhere; kept as float.
        labels: (image,), the true classes, which the baselines need; None where nothing says.

    Raises:
        InputError: shapes that do not fit, no image, masks outside 0..1, or one without any subject.
    """

    pixels: Tensor
    masks: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        _check_pixels(self.pixels)
        shape = (len(self.pixels), *self.pixels.shape[2:])
        if tuple(self.masks.shape) != shape:
            raise InputError(
                f"masks must have the images' size, (image, height, width) {shape}; got "
                f"{tuple(self.masks.shape)}: resize them with their images"
            )
        wide = torch.float64 if self.pixels.dtype == torch.float64 else torch.float32
        object.__setattr__(self, "masks", self.masks.to(wide))
        if not ((self.masks >= 0) & (self.masks <= 1)).all():
            raise InputError("masks must lie between 0 and 1, 1 where the subject is")
        if empty := [row for row, mask in enumerate(self.masks) if not mask.any()]:
            raise InputError(f"the masks of images {empty[:5]} are empty: leave these images out")
        if self.labels is not None and tuple(self.labels.shape) != shape[:1]:
            raise InputError(f"labels must be one class an image, {shape[0]}; got {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.masks.shape[1], self.masks.shape[2]

    def take(self, rows: Int[Tensor, "chosen"]) -> MaskedImages:
        """These rows of it."""
        labels = None if self.labels is None else self.labels[rows]
        return MaskedImages(self.pixels[rows], self.masks[rows], labels)

    def to(self, device: torch.device) -> MaskedImages:
        """The same on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return MaskedImages(self.pixels.to(device), self.masks.to(device), labels)


def _check_pixels(pixels: Tensor) -> None:
    if pixels.ndim != 4 or not len(pixels) or not pixels.is_floating_point():
        raise InputError(
            "pixels must be floats, (image, channel, height, width), with at least one image; got "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}"
        )
    if not pixels.isfinite().all():
        raise InputError("pixels hold NaN or infinite values")


def with_random_masks(images: MaskedImages, seed: int) -> MaskedImages:
    """The same images with masks that know nothing of them: as large, at random places, the edge wrapped.

    The control of every claim about masks: what these achieve as well, knowing where the subject is did not.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = images.masks.shape[1:]
    rows = torch.randint(height, (len(images), 1), generator=generator)
    columns = torch.randint(width, (len(images), 1), generator=generator)
    other = torch.randperm(len(images), generator=generator)
    down = (torch.arange(height) + rows) % height
    along = (torch.arange(width) + columns) % width
    moved = images.masks[other][torch.arange(len(images))[:, None, None], down[:, :, None], along[:, None]]
    return MaskedImages(images.pixels, moved, images.labels)


def varied(images: MaskedImages, generator: torch.Generator) -> MaskedImages:
    """Enlarged by 8/7, cropped at random to the old size, and half of them mirrored, masks alike.

    A crop that would leave nothing of a subject is not made: such an image stays whole.
    """
    height, width = images.pixels.shape[2:]
    large = (round(height * ENLARGED), round(width * ENLARGED))
    pixels = functional.interpolate(images.pixels, size=large, mode="bilinear", antialias=True)
    masks = functional.interpolate(images.masks[:, None], size=large)[:, 0]
    down = torch.randint(large[0] - height + 1, (len(images), 1), generator=generator) + torch.arange(height)
    along = torch.randint(large[1] - width + 1, (len(images), 1), generator=generator) + torch.arange(width)
    mirrored = torch.rand(len(images), 1, generator=generator) < 0.5
    along = torch.where(mirrored, along.flip(1), along)
    where = (torch.arange(len(images))[:, None, None], down[:, :, None], along[:, None])
    cut = masks[where]
    kept = cut.flatten(1).any(1)[:, None, None]
    moved = pixels.movedim(1, -1)[where].movedim(-1, 1)
    return MaskedImages(
        torch.where(kept[:, None], moved, images.pixels),
        torch.where(kept, cut, images.masks),
        images.labels,
    )
