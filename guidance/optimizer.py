"""From a loss on attention to nudged latents: step rules, schedule over the trajectory, refinement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import GuidanceError
from .limits import Latents, Limits, norms

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996


@dataclass
class Probed:
    """What one probe found, an entry an image: the loss, its gradient with respect to the latents, each
    span's map.

    `gradient` is zero where it was not finite; `finite` tells where that was.
    """

    losses: Float[Tensor, "batch"]
    gradient: Latents
    finite: Bool[Tensor, "batch"]
    word_maps: list[Float[Tensor, "_span rows columns"]]

    def take(self, rows: Int[Tensor, "row"]) -> Probed:
        """The findings of some images."""
        maps = [self.word_maps[row] for row in rows.tolist()]
        return Probed(self.losses[rows], self.gradient[rows], self.finite[rows], maps)

    def copy(self) -> Probed:
        """The same findings, to put others into."""
        return self.take(torch.arange(len(self.losses), device=self.losses.device))

    def put(self, rows: Int[Tensor, "row"], other: Probed) -> None:
        """Put another probe's findings in the place of those of some images."""
        self.losses[rows], self.gradient[rows], self.finite[rows] = other.losses, other.gradient, other.finite
        for row, maps in zip(rows.tolist(), other.word_maps, strict=True):
            self.word_maps[row] = maps


Probe = Callable[[Latents, Int[Tensor, "row"]], Probed]
"""`probe(latents, rows)`: what the images numbered `rows`, whose latents are given, attend to."""


@runtime_checkable
class Step(Protocol):
    """How far the latents move, given what a probe found.

    `progress` is the fraction of the trajectory that lies behind, 0 to 1; `scale` the scheduler's input
    scale.
    """

    def __call__(self, latents: Latents, probed: Probed, progress: float, scale: float) -> Latents:
        """The shift of the latents."""
        ...


@dataclass(frozen=True)
class GradientStep:
    """The step of Attend-and-Excite: shift = -(alpha / c^2) grad L, alpha = size sqrt(1 - progress / 2).

    Source: Chefer et al. 2023, equation 2 and its code, alpha from 20 to 20 sqrt(1/2) for Stable Diffusion
    1. Their code knows latents of unit variance only; with latents scaled by 1/c (Euler, Heun, LMS) the
    gradient is c times smaller and the shift must be 1/c times larger, hence the square. `size` is in units
    of the latents squared.
    """

    size: float = 20.0

    def __call__(self, latents: Latents, probed: Probed, progress: float, scale: float) -> Latents:
        """The shift of the latents."""
        return probed.gradient * (-self.size * math.sqrt(1 - progress / 2) / scale**2)


@dataclass(frozen=True)
class RelativeStep:
    """A step measured by the latents: shift = -size sqrt(1 - progress / 2) |z| g / |g|, norms an image.

    The direction is the gradient's, the length a share of the latents' own norm, so that one size serves
    every model, resolution, loss and scheduler. `size` is a share, 0 to 1; a vanishing gradient moves
    nothing.
    """

    size: float = 0.05

    def __call__(self, latents: Latents, probed: Probed, progress: float, scale: float) -> Latents:
        """The shift of the latents."""
        length = self.size * math.sqrt(1 - progress / 2) * norms(latents)
        gradient = norms(probed.gradient)
        return probed.gradient * -torch.where(gradient > 0, length / gradient, 0.0)


@dataclass(frozen=True)
class Schedule:
    """When to nudge, and how much attention to insist on.

    Attributes:
        thresholds: at which point of the trajectory the latents are refined until every span's peak reaches
            which height (0 to 1). The paper's: .05 at the start, .5 after 10 and .8 after 20 of 50 steps.
        since: where nudging begins; 0 is the first step, as in the paper.
        until: where nudging ends (the paper: after 25 of 50 steps).
        unit: "fraction" measures all by the trajectory (0 to 1, so that 20 or 28 steps work like 50);
            "step" counts the denoiser's calls, as diffusers' pipeline does.
        enough: how much attention is enough to be left alone: at which point of the trajectory which peak (0
            to 1) of a word's attention, in between by straight lines. An image all of whose words had so much
            in the pipeline's own last pass, which is watched for nothing, is not probed. Empty: every image
            is, at every guided step. No pass comes before the first step, so that one is probed unless
            nudging begins after it.
        moves_per_probe: how many moves of an image the gradient of one probe serves for: its next move is
            made with the last one again, and costs nothing. Not at steps that refine, nor with
            `Limits.halvings`.
        restart: how little attention makes an image begin anew: at which point of the trajectory which mean
            of the highest sixteenth of a word's attention (0 to 1; p_s of `losses.attention_peak`), in
            between by straight lines, and nowhere before the first point or after the last.
            Till then it is guided by this schedule. An image one of whose words had less in the pipeline's
            own last pass begins anew, once, from the noise that the pipeline draws next (where it is called
            with latents: from these). It costs the steps that are given up, and no other image anything.
            Empty: none does.
        anew: the schedule of images that have begun anew, and of all of them where passes cannot be watched
            or the pipeline cannot begin anew (`hosts.Host.begins_anew`); None: this one.
    """

    thresholds: Mapping[float, float] = field(default_factory=lambda: {0.0: 0.05, 0.2: 0.5, 0.4: 0.8})
    until: float = 0.5
    unit: Literal["fraction", "step"] = "fraction"
    enough: Mapping[float, float] = field(default_factory=dict)
    since: float = 0.0
    moves_per_probe: int = 1
    restart: Mapping[float, float] = field(default_factory=dict)
    anew: Schedule | None = None

    def __post_init__(self) -> None:
        most = 1.0 if self.unit == "fraction" else math.inf
        for name in ("thresholds", "enough", "restart"):
            points: Mapping[float, float] = getattr(self, name)
            for point, height in points.items():
                if not (0 <= point <= most and 0 <= height <= 1):
                    raise GuidanceError(
                        f"{name} map a point of the trajectory (a {self.unit}) to an attention of 0 to 1; "
                        f"got {point}: {height}"
                    )
        if self.anew is not None and (not self.restart or self.anew.restart):
            raise GuidanceError(
                "anew is the schedule of images that have begun anew: it goes with restart, and has none "
                "itself"
            )
        if self.moves_per_probe < 1:
            raise GuidanceError(f"moves_per_probe is a whole number from 1 on; got {self.moves_per_probe!r}")
        for name, point in (("since", self.since), ("until", self.until)):
            if not 0 <= point <= most:
                raise GuidanceError(f"{name} is a {self.unit}, from 0 to {most:g}; got {point}")

    def first(self, steps: int) -> int:
        """The index of the first step in which the latents are moved: the one that `since` lies in."""
        return int(self.since * steps + _ROUNDING) if self.unit == "fraction" else int(self.since)

    def last(self, steps: int) -> int:
        """The index of the first step after those in which the latents are moved."""
        return math.ceil(self.until * steps - _ROUNDING) if self.unit == "fraction" else int(self.until)

    def thresholds_at(self, steps: int) -> dict[int, float]:
        """The thresholds by the index of the step, for a trajectory of `steps` steps."""
        if self.unit == "step":
            return {int(point): height for point, height in self.thresholds.items()}
        return {int(point * steps + _ROUNDING): height for point, height in sorted(self.thresholds.items())}

    def enough_at(self, index: int, steps: int) -> float | None:
        """How much attention is enough at the step of that index; None where none is."""
        return self._between(self.enough, index, steps) if self.enough else None

    def restart_at(self, index: int, steps: int) -> float | None:
        """How little attention makes an image begin anew at the step of that index; None where none does."""
        point = self._point(index, steps)
        if not self.restart or not min(self.restart) - _ROUNDING <= point <= max(self.restart) + _ROUNDING:
            return None
        return self._between(self.restart, index, steps)

    def last_restart(self, steps: int) -> int:
        """The index of the last step at which an image may begin anew; -1 where none may."""
        return max((index for index in range(steps) if self.restart_at(index, steps) is not None), default=-1)

    def _point(self, index: int, steps: int) -> float:
        return index / steps if self.unit == "fraction" else index

    def _between(self, heights: Mapping[float, float], index: int, steps: int) -> float:
        points, values = zip(*sorted(heights.items()), strict=True)
        return float(np.interp(self._point(index, steps), points, values))


@dataclass
class Nudged:
    """Latents after a nudge, and what is worth telling of it, an entry an image.

    `probed` is what was found before the last move, `halvings` how often a move was halved because the loss
    had risen.
    """

    latents: Latents
    probed: Probed
    refinements: Int[Tensor, "batch"]
    halvings: Int[Tensor, "batch"]

    @classmethod
    def unmoved(cls, latents: Latents, probed: Probed) -> Nudged:
        """Latents that were probed, and moved by no step."""
        none = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        return cls(latents, probed, none, none.clone())

    def put(self, rows: Int[Tensor, "row"], other: Nudged) -> None:
        """Put what became of some images in its place."""
        self.latents[rows] = other.latents
        self.probed.put(rows, other.probed)
        self.refinements[rows], self.halvings[rows] = other.refinements, other.halvings


def nudge(
    latents: Latents,
    probe: Probe,
    move: Callable[[Latents, Probed], Latents],
    *,
    threshold: float | None = None,
    max_refinements: int = 20,
    update: bool = True,
    published: bool = False,
    limits: Limits | None = None,
    spent: Float[Tensor, "batch"] | None = None,
) -> Nudged:
    """Move latents down the gradient of a loss: once, and with a threshold until it is low enough first.

    Source: Chefer et al. 2023, Algorithm 1. Images of a batch are refined each for itself; one that is
    satisfied is not probed again.

    Args:
        latents: the latents before the denoiser's call, float32.
        probe: latents and the numbers of their images to (loss, gradient, maps).
        move: latents and what was found there to a shift.
        threshold: refine the images whose loss is above 1 - threshold. None: no refinement.
        max_refinements: at most so many refinement moves an image.
        update: make the one move that every guided step makes.
        published: refine as the published code does, which makes one more move after the loss is low enough.
        limits: how far all moves together may go; None: as far as they do.
        spent: how much of the limits' total each image has used up; None: nothing.
    """
    walk = _Walk(latents, probe, move, limits or Limits(), spent)
    everyone, probed = walk.everyone, walk.probed
    refinements = torch.zeros_like(everyone)
    if threshold is not None and max_refinements > 0:
        target = 1.0 - threshold
        open_ = probed.losses > target
        while open_.any():
            rows = everyone[open_]
            low_enough = probed.losses <= target
            stuck = walk.refine(rows)
            refinements[rows] += 1
            reached = low_enough if published else probed.losses <= target
            open_ &= ~reached & ~stuck & (refinements < max_refinements) & probed.finite
    if update:
        walk.update()
    return Nudged(walk.moved, probed, refinements, walk.halvings)


class _Walk:
    """Latents on their way from where the scheduler has them, within limits."""

    def __init__(
        self,
        origin: Latents,
        probe: Probe,
        move: Callable[[Latents, Probed], Latents],
        limits: Limits,
        spent: Float[Tensor, "batch"] | None,
    ) -> None:
        self.origin, self.moved = origin, origin.clone()
        self.probe, self.move, self.limits = probe, move, limits
        self.spent = origin.new_zeros(len(origin)) if spent is None else spent.to(origin)
        self.everyone = torch.arange(len(origin), device=origin.device)
        self.halvings = torch.zeros_like(self.everyone)
        self.probed = probe(self.moved, self.everyone)

    def refine(self, rows: Int[Tensor, "row"]) -> Bool[Tensor, "batch"]:
        """Move some images and probe them again; tells which had to be taken back."""
        shift = self.move(self.moved, self.probed)[rows]
        self.moved[rows], found, stuck = self._tried(rows, shift)
        self.probed.put(rows, found)
        return torch.zeros_like(self.everyone, dtype=torch.bool).index_put((rows,), stuck)

    def update(self) -> None:
        """Move all images once, and look at the loss again only where moves may be halved."""
        shift = self.move(self.moved, self.probed)
        if self.limits.halvings:
            self.moved = self._tried(self.everyone, shift)[0]
        else:
            self.moved = self._kept(self.everyone, shift)

    def _tried(self, rows: Int[Tensor, "row"], shift: Latents) -> tuple[Latents, Probed, Bool[Tensor, "row"]]:
        """Images moved by their shift, by a half, a quarter ... where the loss would rise, or not at all."""
        before, shift = self.probed.take(rows), shift.clone()
        moved = self._kept(rows, shift)
        found = self.probe(moved, rows)
        risen = _risen(before, found)
        for _ in range(self.limits.halvings):
            again = risen.nonzero().flatten()
            if not len(again):
                break
            shift[again] /= 2
            self.halvings[rows[again]] += 1
            moved[again] = self._kept(rows[again], shift[again])
            found.put(again, self.probe(moved[again], rows[again]))
            risen = _risen(before, found)
        stuck = risen if self.limits.halvings else torch.zeros_like(risen)
        back = stuck.nonzero().flatten()
        moved[back] = self.moved[rows[back]]
        found.put(back, before.take(back))
        return moved, found, stuck

    def _kept(self, rows: Int[Tensor, "row"], shift: Latents) -> Latents:
        return self.limits.kept(self.origin[rows], self.moved[rows] + shift, self.spent[rows])


def _risen(before: Probed, after: Probed) -> Bool[Tensor, "row"]:
    return (after.losses > before.losses) | ~after.finite
