"""What is done to an image on every step of a feature visualisation, so that no trick of pixels survives.

Pure: numbers are drawn apart from their use, so that each part can be tested by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers for several copies of one image.

    Attributes:
        shift: added to each channel, U(-1, 1) times the strength.
        scale: multiplies each channel, e^U(-1, 1) with the strength in the exponent.
        noise: added to each pixel.
        moves: pixels down and to the right; what leaves the image comes in at the other side.
    """

    shift: Float[Tensor, "copy channel"]
    scale: Float[Tensor, "copy channel"]
    noise: Float[Tensor, "copy channel height width"]
    moves: Int[Tensor, "copy 2"]


def drawn(
    generator: torch.Generator,
    copies: int,
    shape: tuple[int, int, int],
    *,
    colour: float = 1.0,
    noise: float = 0.5,
    jitter: int = 32,
) -> Draws:
    """Draw for `copies` of an image of `shape` (channel, height, width).

    Args:
        colour: strength of the colour shift, 0 for none.
        noise: standard deviation of the noise, in units of the image, whose pixels are 0..1.
        jitter: the longest move in pixels.
    """

    def uniform() -> Tensor:
        return torch.rand(copies, shape[0], generator=generator) * 2 - 1

    return Draws(
        shift=colour * uniform(),
        scale=torch.exp(colour * uniform()),
        noise=noise * torch.randn(copies, *shape, generator=generator),
        moves=torch.randint(-jitter, jitter + 1, (copies, 2), generator=generator),
    )


def augmented(
    image: Float[Tensor, "channel height width"], draws: Draws
) -> Float[Tensor, "copy channel height width"]:
    """Copies of an image: moved, then colours shifted, then noise (Ghiasi et al. 2022, section 3).

    GS(CS(Jitter(x))) with CS(x) = scale x + shift and GS(x) = x + noise.
    """
    moved = torch.stack([image.roll(tuple(move), dims=(1, 2)) for move in draws.moves.tolist()])
    scale, shift = (each[..., None, None].to(image) for each in (draws.scale, draws.shift))
    return scale * moved + shift + draws.noise.to(image)


def total_variation(images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image"]:
    """How much neighbouring pixels differ: root mean squares over the four directions, added up.

    TV(x) = sum over directions (right, down, both diagonals) of the mean over channels of
    sqrt(mean of squared differences). The published code takes norms, which grow with the image's side: a
    weight of .0005 there, on the mean over eight copies divided by eight once more, is one of .896 here at
    224 pixels.
    """
    pairs = (
        (images[..., :, 1:], images[..., :, :-1]),
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
    total = torch.zeros(len(images), device=images.device, dtype=images.dtype)
    for one, other in pairs:
        squared = (one - other).square().mean(dim=(2, 3))
        # The root has no slope at 0, where an image is of one colour.
        total = total + torch.sqrt(squared + torch.finfo(images.dtype).tiny).mean(dim=1)
    return total
