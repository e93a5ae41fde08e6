"""Keeps a nudge inside the part of the latents that may be moved, and measures it by that part alone.

Where a pipeline overwrites the latents outside a mask after every step, moving them there is lost, and a
share of the whole latents' norm would be too much for the part inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .limits import Latents, norms
from .optimizer import Probe


@dataclass(frozen=True)
class Inside:
    """Which part of latents may be moved.

    Attributes:
        movable: (image or 1, 1, height, width), above 0 where they may; None for everywhere.
    """

    movable: Tensor | None

    def of(self, latents: Latents) -> Latents:
        """All images' latents with 0 outside."""
        return self.put(latents, torch.zeros_like(latents))

    def put(
        self,
        inside: Float[Tensor, "row channel height width"],
        whole: Latents,
        rows: Tensor | None = None,
    ) -> Float[Tensor, "row channel height width"]:
        """The inside from `inside` and the outside from `whole`, for the images numbered `rows` or all."""
        if self.movable is None:
            return inside
        mask = self.movable.to(inside.device) > 0
        if rows is not None and len(mask) > 1:
            mask = mask[rows]
        return torch.where(mask, inside, whole if rows is None else whole[rows])

    def probe(self, probe: Probe, whole: Latents) -> Probe:
        """A probe that is asked about the inside alone, with `whole` around it."""
        return lambda latents, rows: probe(self.put(latents, whole, rows), rows)

    def shares(self, shift: Latents, latents: Latents) -> Float[Tensor, "batch"]:
        """The norm of each image's shift as a share of its latents' inside; 0 where nothing is inside."""
        length = norms(self.of(latents))
        return torch.where(length > 0, norms(shift) / length, 0.0).flatten()
