"""Masked attack: how many small steps on relevant, or on other, pixels turn the answer into another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import InputError
from .asking import Ask, Inputs, answers, picked
from .intervals import Estimate, column, mean, median, share
from .parts import Patches, Told
from .ranking import flat, most
from .records import Columns, Measured

QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class MaskedAttack:
    """Targeted FGSM inside and outside the most relevant area (the vision study's experiment).

    Iterated signs of the gradient (Kurakin et al. 2017): x <- clip(x - step sign(d CE(target) / dx)), on the
    pixels of the area alone, until the answer is the target class. Inside are the most relevant q % of the
    patches, outside equally many of the least relevant, so that both attacks have the same room. A map is
    good if the inside needs fewer steps. An image that never turns is censored at the cap: it counts, as
    more than the cap. The control is a random map: its inside is a random area.

    Attributes:
        patches: the grid, and the input that holds the image; its fill is not used.
        mean, std: of the processor, so that a step and the range 0..1 are those of the image itself.
        shares: q, at most one half.
        step: in the image's units, 0..1.
        cap: the most steps that are tried.
    """

    patches: Patches
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shares: tuple[float, ...] = (0.25, 0.5)
    step: float = 1 / 255
    cap: int = 50
    title: str = field(default="Masked attack", kw_only=True)

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < one <= 0.5 for one in self.shares):
            raise InputError(f"shares must lie in 0..0.5, so that inside and outside fit; got {self.shares}")
        if self.cap < 1 or not 0 < self.step <= 1 or len(self.mean) != len(self.std):
            raise InputError(
                "wanted a step in 0..1, a cap of at least 1, mean and std of one length; got step "
                f"{self.step}, cap {self.cap}, {len(self.mean)} and {len(self.std)} channels"
            )

    def measure(self, ask: Ask, inputs: Inputs, targets: Int[Tensor, "row"], values: Tensor) -> Measured:
        """Columns "inside 25%", "outside 25%" and so on: steps to the target, infinite where there were none.

        Raises:
            InputError: a target that is the answer already.
        """
        movable = self.patches.movable(inputs)
        ranked = flat(values, movable)
        found: Measured = {}
        for one in self.shares:
            for name, sign in (("inside", 1.0), ("outside", -1.0)):
                area = self.patches.cover(inputs, most(ranked * sign, movable, one))
                found[f"{name} {one:.0%}"] = self.steps(ask, inputs, targets, area)
        return found

    def steps(
        self, ask: Ask, inputs: Inputs, targets: Int[Tensor, "row"],
        area: Bool[Tensor, "row one height width"],
    ) -> Float[Tensor, "row"]:  # fmt: skip
        """How many steps it takes on these pixels; infinite where the cap is reached before the target."""
        now, name = dict(inputs), self.patches.name
        pixels = now[name].detach()
        std, low, high = self._range(pixels)
        found = torch.full((len(pixels),), math.inf)
        left = torch.arange(len(pixels), device=pixels.device)
        goal, area = targets.to(pixels.device), area.to(pixels.device)
        for count in range(self.cap + 1):
            now[name] = pixels.requires_grad_()
            with torch.enable_grad():
                logits = answers(ask, now)
                loss = torch.nn.functional.cross_entropy(logits, goal.to(logits.device), reduction="sum")
            there = logits.argmax(1).to(goal.device) == goal
            if count == 0 and there.any():
                raise InputError(
                    f"row {int(there.int().argmax())} has its target as answer before any attack"
                )
            found[left[there].cpu()] = count
            if there.all() or count == self.cap:
                break
            (slope,) = torch.autograd.grad(loss, pixels)
            moved = pixels.detach() - self.step / std * slope.sign() * area
            now[name] = torch.where(area, moved.clamp(low, high), pixels.detach())
            now = picked(now, ~there)
            pixels, left, goal, area = now[name], left[~there], goal[~there], area[~there]
        return found

    def summary(self, columns: Columns) -> dict[str, Estimate]:
        """For each share: medians and restricted means, never turned, which side is sooner, the difference.

        Restricted means count a censored image as the cap; the difference is outside less inside of these
        (larger is better). A median beyond the cap is infinite.
        """
        found: dict[str, Estimate] = {}
        for one in self.shares:
            inside, outside = (column(columns[f"{name} {one:.0%}"], name) for name in ("inside", "outside"))
            for name, steps in (("inside", inside), ("outside", outside)):
                found[f"{name} {one:.0%}, median steps"] = median(steps)
                found[f"{name} {one:.0%}, mean steps"] = mean(np.minimum(steps, self.cap))
                found[f"{name} {one:.0%}, never"] = share(np.isinf(steps))
            found[f"inside sooner {one:.0%}"] = share(inside < outside)
            found[f"outside sooner {one:.0%}"] = share(outside < inside)
            found[f"difference {one:.0%}"] = mean(self.difference(inside, outside))
        return found

    def points(self, columns: Columns) -> dict[str, Estimate]:
        """The distribution of the difference: its quantiles, without intervals of their own."""
        found = {}
        for one in self.shares:
            inside, outside = (column(columns[f"{name} {one:.0%}"], name) for name in ("inside", "outside"))
            gaps = self.difference(inside, outside)
            for part, value in zip(QUANTILES, np.quantile(gaps, QUANTILES).tolist(), strict=True):
                found[f"difference {one:.0%}, quantile {part:g}"] = Estimate(
                    value, -math.inf, math.inf, len(gaps)
                )
        return found

    def difference(
        self, inside: Float[np.ndarray, "row"], outside: Float[np.ndarray, "row"]
    ) -> Float[np.ndarray, "row"]:
        """Steps outside less steps inside, each at most the cap."""
        return np.minimum(outside, self.cap) - np.minimum(inside, self.cap)

    @property
    def told(self) -> Told:
        """Step, cap, areas, and how censored images count."""
        return {
            "patches": self.patches.told["patches"],
            "step": f"{self.step:.4g} of the image's range",
            "cap": self.cap,
            "areas": ", ".join(f"{one:.0%}" for one in self.shares)
            + " of the patches: the most relevant inside, as many of the least relevant outside",
            "never turned": "censored at the cap: more than it in medians, the cap in means",
        }

    def _range(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The deviation, and where black and white lie, in the model's units, a channel."""
        if pixels.shape[1] != len(self.mean):
            raise InputError(f"mean has {len(self.mean)} channels, the images {pixels.shape[1]}")
        mean, std = (torch.tensor(one).to(pixels)[:, None, None] for one in (self.mean, self.std))
        return std, -mean / std, (1 - mean) / std


def drawn_targets(
    predicted: Int[Tensor, "row"], labels: int, items: Sequence[int], seed: int = 0
) -> Int[Tensor, "row"]:
    """For each row another class than the predicted one, drawn by seed and item, whatever the batch is.

    Raises:
        InputError: if there is no other class, or not an item for every row.
    """
    if labels < 2 or len(items) != len(predicted):
        raise InputError(
            f"wanted two or more labels and an item a row; got {labels} labels, {len(items)} items"
        )
    shifts = [int(np.random.default_rng([seed, item]).integers(1, labels)) for item in items]
    return (predicted.cpu() + torch.tensor(shifts)) % labels
