"""The methods that change a model's input once more, by hand in float64, and maps cut to what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from explain_reference import again, left, made
from explain_reference_families import HANDS
from explain_reference_shapes import Hand, Shown
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Settings = Mapping[str, Any]


def cut(shown: Shown, values: Array, row: int) -> Array:
    """A part of a stream as a person sees it."""
    part = np.array(values[shown.first : shown.first + shown.count])
    if shown.kept is not None:
        part[[token not in shown.kept[row] for token in range(shown.count)]] = 0.0
    return part.reshape(shown.grid) if shown.grid else part


def from_outside(name: str, method: str, shown: Shown, settings: Settings) -> Array:
    """The methods that change an input: pixels patch by patch, tokens where they enter."""
    hand: Hand = HANDS[name]
    by_pixels = shown.kind == "image" and hand.pixels
    stream = None if by_pixels else shown.stream
    value = made(name)[1]["pixel_values"] if by_pixels else left(name).tokens[shown.stream].detach()
    nothing = settings.get("baseline", 0.0) if by_pixels else 0.0
    if method == "occlusion":
        found = occluded(name, stream, value, shown, nothing)
        found = found if settings.get("signed", True) else np.abs(found)
    elif method == "integrated_gradients":
        points, shares = np.polynomial.legendre.leggauss(settings["steps"])
        parts = [
            slope(name, stream, nothing + (value - nothing) * (1 + point) / 2) * share / 2
            for point, share in zip(points, shares, strict=True)
        ]
        along = sum(parts) * (value - nothing)
        found = gathered(along, shown, by_pixels, settings.get("signed", True))
    else:  # SmoothGrad without noise is saliency
        found = gathered(slope(name, stream, value), shown, by_pixels, settings.get("signed", False))
    return np.stack([cut(shown, each, row) for row, each in enumerate(found)])


def slope(name: str, stream: str | None, value: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = value.clone().requires_grad_()
        (found,) = torch.autograd.grad(again(name, stream, leaf).sum(), leaf)
    return found


def gathered(values: Tensor, shown: Shown, by_pixels: bool, signed: bool) -> Array:
    """Sums over each token's channels, or each patch's pixels (8 by 8); room for the tokens before it."""
    values = values if signed else values.abs()
    if not by_pixels:
        return values.sum(-1).numpy()
    patches = values.sum(1).unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).sum((2, 4)).flatten(1)
    return np.concatenate([np.zeros((2, shown.first)), patches.numpy()], 1)


def occluded(name: str, stream: str | None, value: Tensor, shown: Shown, nothing: float) -> Array:
    """By how much the score falls without a patch, or a token."""
    whole = again(name, stream, value)
    found = np.zeros((2, shown.first + shown.count))
    for token in range(shown.first, shown.first + shown.count):
        hidden = value.clone()
        if stream is None:
            assert shown.grid is not None
            y, x = divmod(token - shown.first, shown.grid[1])
            hidden[:, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = nothing
        else:
            hidden[:, token] = nothing
        with torch.no_grad():
            found[:, token] = (whole - again(name, stream, hidden)).detach().numpy()
    return found
