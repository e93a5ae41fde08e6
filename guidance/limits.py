"""How far a nudge may take the latents from where the scheduler has them, and how far it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import GuidanceError

Latents = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class Limits:
    """Bounds that hold for every model and scheduler, because they are shares of the latents' own norm.

    Attributes:
        step: how far all moves of one denoising step together may take the latents, as a share of their
            norm before it; a longer shift is shortened.
        total: how far the shifts of all steps of a run may add up to, in the same shares; when it is used
            up the run goes on unguided.
        halvings: after each move the loss is looked at again (one more probe a step); where it has risen,
            the move is halved, so often at most, and then taken back. 0: never look.
        restore: an off-distribution guard: "norm" gives the nudged latents the norm they had, "channels" each
            channel's mean and standard deviation; None leaves them. It comes before the bounds, which keep
            what they promise.

    The starting noise (`start=` of an objective) has bounds of its own and is not counted.

    Raises:
        GuidanceError: a bound that is no positive number, halvings below 0, or an unknown `restore`.
    """

    step: float = math.inf
    total: float = math.inf
    halvings: int = 0
    restore: Literal["norm", "channels"] | None = None

    def __post_init__(self) -> None:
        for name, bound in (("step", self.step), ("total", self.total)):
            if not bound >= 0:
                raise GuidanceError(f"limits: {name} is a share of the latents' norm, 0 or more; got {bound}")
        if self.halvings < 0:
            raise GuidanceError(f"limits: halvings is a number of times, 0 or more; got {self.halvings}")
        if self.restore not in (None, "norm", "channels"):
            raise GuidanceError(f'limits: restore is "norm", "channels" or None; got {self.restore!r}')

    def kept(self, origin: Latents, moved: Latents, spent: Float[Tensor, "batch"]) -> Latents:
        """The moved latents, restored and brought within the bounds around `origin`.

        `spent` is how much of `total` is used up. Images that were not moved stay as they are, to the bit.
        """
        if self.restore is not None:
            restored = _restored(moved, origin, by_channel=self.restore == "channels")
            moved = torch.where(_unmoved(origin, moved), moved, restored)
        if math.isinf(self.step) and math.isinf(self.total):
            return moved
        most = (self.total - spent).clamp(min=0, max=self.step)[:, None, None, None] * norms(origin)
        length = norms(moved - origin)
        within = length <= most
        factor = torch.where(within, 1.0, most / torch.where(within, 1.0, length))
        return torch.where(within, moved, origin + (moved - origin) * factor)


@dataclass(frozen=True)
class Drift:
    """How a nudge changed what the latents are like, an entry an image.

    Attributes:
        norm_ratios: norm after over norm before; 1 is unchanged.
        channel_drifts: the largest change of a channel's mean or standard deviation, in units of the
            standard deviation it had; 0 is unchanged.
        levels: root of the mean square of the nudged latents as the denoiser sees them, scaled; 1 for the
            noise that a run begins with, near 1 for latents it was trained on.
    """

    norm_ratios: tuple[float, ...]
    channel_drifts: tuple[float, ...]
    levels: tuple[float, ...]


def drift(before: Latents, after: Latents, scale: float) -> Drift:
    """Compare nudged latents with those that the scheduler had; `scale` is the scheduler's input scale."""
    mean, spread = _statistics(before)
    new_mean, new_spread = _statistics(after)
    changes = torch.maximum((new_mean - mean).abs(), (new_spread - spread).abs()) / spread
    level = after.flatten(1).square().mean(1).sqrt() * scale
    return Drift(
        tuple((norms(after) / norms(before)).flatten().tolist()),
        tuple(changes.flatten(1).amax(1).tolist()),
        tuple(level.tolist()),
    )


def norms(latents: Latents) -> Float[Tensor, "batch 1 1 1"]:
    """The Euclidean norm of each image's latents."""
    return latents.flatten(1).norm(dim=1)[:, None, None, None]


def _restored(moved: Latents, origin: Latents, *, by_channel: bool) -> Latents:
    if not by_channel:
        return moved * (norms(origin) / norms(moved))
    mean, spread = _statistics(origin)
    moved_mean, moved_spread = _statistics(moved)
    return (moved - moved_mean) / moved_spread * spread + mean


def _unmoved(origin: Latents, moved: Latents) -> Tensor:
    return (origin == moved).flatten(1).all(1)[:, None, None, None]


def _statistics(latents: Latents) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (batch, channel, 1, 1)."""
    tiny = torch.finfo(latents.dtype).tiny
    spread = latents.std(dim=(2, 3), correction=0, keepdim=True).clamp_min(tiny)
    return latents.mean(dim=(2, 3), keepdim=True), spread
