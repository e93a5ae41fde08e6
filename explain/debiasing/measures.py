"""What a classifier says and looks at, image by image: the figures before and after it is debiased."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import InputError
from .examples import MaskedImages
from .losses import inside, stretched
from .objective import Options
from .relevance import look


@dataclass(frozen=True, eq=False)
class Sight:
    """One row an image, on the CPU.

    Attributes:
        predicted: the class with the largest logit.
        right: whether it is the label; None without labels.
        inside: the share of the relevance of the predicted class that lies in the mask, 0 to 1.
        relevance: the map of each image, from its least (0) to its largest value (1), in pixels.
    """

    predicted: Int[Tensor, "image"]
    right: Bool[Tensor, "image"] | None
    inside: Float[Tensor, "image"]
    relevance: Float[Tensor, "image height width"]

    @property
    def accuracy(self) -> float:
        """The share of images told right.

        Raises:
            InputError: without labels.
        """
        if self.right is None:
            raise InputError("accuracy needs labels: give them with the images")
        return float(self.right.float().mean())


def sight(
    model: nn.Module, images: MaskedImages, *, batch: int = 50, options: Options = MappingProxyType({})
) -> Sight:
    """Ask a classifier about images whose subject is known; relevance is that of `debias`, the generic rule.

    Raises:
        InputError, CaptureError: as `debias`.
    """
    like = next(each for each in model.parameters() if each.is_floating_point())
    predicted, shares, maps = [], [], []
    for rows in torch.arange(len(images)).split(batch):
        own = images.take(rows)
        pixels = own.pixels.to(like.device, like.dtype)
        looked = look(model, {**options, "pixel_values": pixels}, training=False)
        relevance = stretched(looked.relevance.detach().float().cpu(), own.size)
        predicted.append(looked.targets.cpu())
        shares.append(inside(relevance, own.masks))
        maps.append(relevance)
    answers = torch.cat(predicted)
    right = None if images.labels is None else answers == images.labels.cpu()
    return Sight(answers, right, torch.cat(shares), torch.cat(maps))
