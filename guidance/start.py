"""The noise that a run begins with, made fitter before the first step: moved, or optimised and drawn anew."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import GuidanceError
from .limits import Latents, norms
from .losses import Losses, attend_and_excite, beyond, self_attention_conflict, weighted
from .optimizer import Probe, Probed, RelativeStep


@dataclass
class Started:
    """Latents to begin with, and what was found at the last look at them."""

    latents: Latents
    probed: Probed


@runtime_checkable
class Start(Protocol):
    """What is done to the initial latents before the first step is guided.

    `losses` are what it looks at; None for those of the objective. `scale` is the scheduler's input scale:
    scale times the latents has the variance 1.
    """

    @property
    def losses(self) -> Losses | None:
        """What it looks at."""

    def __call__(self, latents: Latents, probe: Probe, scale: float) -> Started:
        """The latents to begin with."""
        ...


@dataclass(frozen=True)
class Rectify:
    """One step on the initial latents, a share of their norm: x' = x - size |x| g / |g|.

    Source: "Rectify then diffuse" (arXiv 2608.03135), whose loss is a soft intersection over union and
    whose size is .02 on SDXL. It costs one probe for the whole run. With a schedule that ends at once
    (`Schedule({}, until=0.0)`) it is all that is done.

    Attributes:
        size: a share of the latents' norm, 0 to 1; 0 changes nothing, to the bit.
        losses: what to lower; None for the objective's own.

    Raises:
        GuidanceError: a size that is no share, or losses that are none.
    """

    size: float = 0.02
    losses: Losses | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 1:
            raise GuidanceError(f"size is a share of the latents' norm, 0 to 1; got {self.size}")
        if self.losses is not None:
            weighted(self.losses)

    def __call__(self, latents: Latents, probe: Probe, scale: float) -> Started:
        """The latents after the step."""
        probed = probe(latents, torch.arange(len(latents), device=latents.device))
        return Started(latents + RelativeStep(self.size)(latents, probed, 0.0, scale), probed)


def _initno_losses() -> Losses:
    return {beyond(attend_and_excite, 0.2): 1.0, beyond(self_attention_conflict, 0.3): 1.0}


@dataclass(frozen=True)
class OptimisedNoise:
    """InitNO: the mean and the deviation of the initial noise optimised until its attention is good.

    Source: Guo et al., "InitNO: Boosting Text-to-Image Diffusion Models via Initial Noise Optimization" (CVPR
    2024). The noise is z = mu + sigma e, e the noise the pipeline has drawn; mu and log sigma begin at 0 and
    are moved by Adam down the gradient of the losses (by default max(0, cross-attention response - .2) +
    max(0, self-attention conflict - .3), so that 0 means both aims are reached). They are kept so close to
    N(0, 1) that the divergence KL = mean of (mu^2 + sigma^2 - 1) / 2 - log sigma stays below `divergence`.
    If an image's losses are not 0 after `iterations`, the next round begins with fresh noise; after the
    last round the best one is optimised on for `last_iterations`. Each image by itself.

    Here the gradient is scaled to a root mean square of 1, so that one `rate` suits every model, and the
    divergence is held by shrinking mu and log sigma. Fresh noise comes from a generator of its own, seeded
    with the image's first noise: the pipeline's generator is left alone, and the same seed gives the same
    image. Meant for runs that begin with noise, not with an image. Costs up to rounds (iterations + 1) +
    last_iterations probes an image.

    Attributes:
        losses: what to lower, 0 when satisfied (see `losses.beyond`); None for the objective's own.
        rounds: how many noises are tried; 0 leaves everything as it is, to the bit.
        iterations: moves a round.
        last_iterations: moves after the last round.
        rate: Adam's, in units of the noise's standard deviation.
        divergence: bound on the mean divergence of an element from N(0, 1), in nats.

    Raises:
        GuidanceError: a number below 0, or losses that are none.
    """

    losses: Losses | None = field(default_factory=_initno_losses)
    rounds: int = 5
    iterations: int = 10
    last_iterations: int = 50
    rate: float = 0.01
    divergence: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("rounds", "iterations", "last_iterations", "rate", "divergence"):
            if not 0 <= getattr(self, name) < math.inf:
                raise GuidanceError(f"{name} is 0 or more; got {getattr(self, name)}")
        if self.losses is not None:
            weighted(self.losses)

    def __call__(self, latents: Latents, probe: Probe, scale: float) -> Started:
        """The latents of the best noise found."""
        if not self.rounds:
            return Started(latents, probe(latents, torch.arange(len(latents), device=latents.device)))
        images = [self._image(latents, row, probe, scale) for row in range(len(latents))]
        found = Probed(
            torch.cat([one.probed.losses for one in images]),
            torch.cat([one.probed.gradient for one in images]),
            torch.cat([one.probed.finite for one in images]),
            [one.probed.word_maps[0] for one in images],
        )
        return Started(torch.cat([one.latents for one in images]), found)

    def _image(self, latents: Latents, row: int, probe: Probe, scale: float) -> Started:
        first = latents[row : row + 1]
        index = torch.tensor([row], device=latents.device)
        best: _Noise | None = None
        for count in range(self.rounds):
            noise = _Noise(first if not count else _fresh(first, count, scale), probe, index, scale)
            noise.improve(self.iterations, self.rate, self.divergence)
            if best is None or noise.loss < best.loss:
                best = noise
            if best.loss <= 0:
                break
        assert best is not None
        best.improve(self.last_iterations, self.rate, self.divergence)
        return Started(best.latents, best.probed)


class _Noise:
    """One image's noise with the mean and the deviation that are sought, at the best place found so far."""

    def __init__(self, given: Latents, probe: Probe, index: Tensor, scale: float) -> None:
        self.given, self.scale = given, scale
        self.look = lambda latents: probe(latents, index)
        self.mean, self.spread = torch.zeros_like(given), torch.zeros_like(given)
        self.latents, self.probed = given, self.look(given)

    @property
    def loss(self) -> float:
        """The losses at the best place, infinite where they are no number."""
        value = float(self.probed.losses)
        return value if math.isfinite(value) else math.inf

    def improve(self, iterations: int, rate: float, divergence: float) -> None:
        """Move mean and log deviation by Adam until the loss is 0; keep the best place."""
        adam = torch.optim.Adam([self.mean, self.spread], lr=rate)
        probed = self.probed
        for _ in range(iterations):
            if self.loss <= 0 or not bool(probed.gradient.any()):
                return
            self._pull(probed.gradient)
            with torch.no_grad():
                adam.step()
                _shrink(self.mean, self.spread, divergence)
            there = self._place()
            probed = self.look(there)
            if bool(probed.finite.all()) and float(probed.losses) < self.loss:
                self.latents, self.probed = there, probed

    def _pull(self, gradient: Latents) -> None:
        """The gradients of mean and log deviation, from the latents'; their size is Adam's business."""
        unit = gradient * (math.sqrt(gradient.numel()) / norms(gradient))
        self.mean.grad = unit
        self.spread.grad = unit * self.spread.exp() * self.given * self.scale

    def _place(self) -> Latents:
        """(mu + sigma e) / scale, written so that mu = 0 and sigma = 1 change no bit."""
        return self.given + self.mean / self.scale + self.spread.expm1() * self.given


def _fresh(first: Latents, count: int, scale: float) -> Latents:
    """Noise of the same size that depends on nothing but the image's first noise and the round."""
    digest = hashlib.blake2b(first.float().cpu().contiguous().numpy().tobytes(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") + count)
    return torch.randn(first.shape, generator=generator).to(first) / scale


def _shrink(mean: Latents, spread: Latents, divergence: float) -> None:
    """Draw mean and log deviation towards 0 until their divergence from N(0, 1) is within bounds."""
    while _divergence(mean, spread) > divergence:
        mean.mul_(0.9)
        spread.mul_(0.9)


def _divergence(mean: Latents, spread: Latents) -> float:
    """KL of N(mean, exp(spread)^2) from N(0, 1), the mean over the elements, in nats."""
    return float(((mean.square() + torch.expm1(2 * spread)) / 2 - spread).mean())
