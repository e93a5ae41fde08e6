"""Makes clean scenes look like generated ones: softer, noisier, paler, never of another hue."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Pixels = Float[Tensor, "scene 3 height width"]


def degrade(pixels: Pixels, generator: torch.Generator, share: float = 0.6) -> Pixels:
    """Blur, shrink and enlarge, relight, add noise: each to some of a `share` of the scenes.

    Pixels are -1 to 1 and stay there. Hues stay, because colours are part of what is to be told.
    """
    chosen = torch.rand(len(pixels), generator=generator) < share
    changed = pixels[chosen]
    if not len(changed):
        return pixels
    changed = _some(blur, changed, generator, 0.6)
    changed = _some(shrink_and_enlarge, changed, generator, 0.3)
    changed = _some(relight, changed, generator, 0.6)
    changed = _some(add_noise, changed, generator, 0.5)
    return pixels.masked_scatter(chosen[:, None, None, None], changed.clamp(-1.0, 1.0))


def blur(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """A Gaussian of its own for each scene, standard deviation 0.3 to 1.4 pixels."""
    count = len(pixels)
    sigma = 0.3 + 1.1 * torch.rand(count, 1, generator=generator)
    offsets = torch.arange(-3.0, 4.0)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(3, 0)
    planes = functional.pad(pixels.reshape(1, count * 3, *pixels.shape[2:]), (3, 3, 3, 3), mode="replicate")
    planes = functional.conv2d(planes, weights[:, None, None, :], groups=count * 3)
    planes = functional.conv2d(planes, weights[:, None, :, None], groups=count * 3)
    return planes.reshape(pixels.shape)


def shrink_and_enlarge(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Bilinear, to between a half and nine tenths of the side and back; one size for all."""
    side = pixels.shape[-1]
    small = int(side * (0.5 + 0.4 * float(torch.rand((), generator=generator))))
    shrunk = functional.interpolate(pixels, size=(small, small), mode="bilinear", antialias=True)
    return functional.interpolate(shrunk, size=(side, side), mode="bilinear")


def relight(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """Contrast about the scene's mean by 0.75 to 1.15, brightness by up to a tenth of the range."""
    contrast = 0.75 + 0.4 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    brightness = 0.2 * (2.0 * torch.rand(len(pixels), 1, 1, 1, generator=generator) - 1.0)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return (pixels - mean) * contrast + mean + brightness


def add_noise(pixels: Pixels, generator: torch.Generator) -> Pixels:
    """White noise of standard deviation 0 to 0.08."""
    sigma = 0.08 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    return pixels + sigma * torch.randn(pixels.shape, generator=generator)


def _some(change, pixels: Pixels, generator: torch.Generator, share: float) -> Pixels:  # type: ignore[no-untyped-def]
    chosen = torch.rand(len(pixels), generator=generator) < share
    if not chosen.any():
        return pixels
    return pixels.masked_scatter(chosen[:, None, None, None], change(pixels[chosen], generator))
