"""Lets the gradient of one probe serve for several moves: a move costs nothing, a probe about a forward."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .limits import Latents
from .optimizer import Probe, Probed


class Reuse:
    """Keeps what the last probe of each image found, and hands it out again.

    Latents change little from one step to the next, and where a word draws attention to itself changes
    little with them; figures in docs/losses.md.

    Attributes:
        moves: how many moves of an image are made with one gradient; 1 probes before each.
    """

    def __init__(self, moves: int) -> None:
        self.moves = moves
        self._found: dict[int, Probed] = {}
        self._left: dict[int, int] = {}

    def saving(self, probe: Probe, seen: Probed | None) -> Probe:
        """The probe, told of those images alone whose last gradient has served often enough.

        The others get that gradient, beside the loss and the maps of `seen`, an entry an image, where the
        pipeline's own pass was watched, or of the probe that the gradient is of. A gradient that was not
        finite serves once.
        """
        if self.moves == 1:
            return probe

        def look(latents: Latents, rows: Tensor) -> Probed:
            numbers = rows.tolist()
            fresh = torch.tensor([not self._left.get(row) for row in numbers], device=rows.device)
            if fresh.any():
                self._remember(rows[fresh], probe(latents[fresh], rows[fresh]))
            for row in numbers:
                self._left[row] -= 1
            found = [self._found[row] for row in numbers]
            if seen is not None:
                found = [
                    one if new else replace(seen.take(rows[place : place + 1]), gradient=one.gradient)
                    for place, (one, new) in enumerate(zip(found, fresh.tolist(), strict=True))
                ]
            return _joined(found)

        return look

    def forget(self, rows: Tensor) -> None:
        """Probe these images anew."""
        for row in rows.tolist():
            self._left.pop(row, None)

    def _remember(self, rows: Tensor, found: Probed) -> None:
        for place, row in enumerate(rows.tolist()):
            self._found[row] = found.take(torch.tensor([place], device=rows.device))
            self._left[row] = self.moves if bool(found.finite[place]) else 1


def _joined(parts: list[Probed]) -> Probed:
    """Findings of an image each as those of all; copies, since what a walk finds is put into them."""
    return Probed(
        torch.cat([one.losses for one in parts]),
        torch.cat([one.gradient for one in parts]),
        torch.cat([one.finite for one in parts]),
        [one.word_maps[0] for one in parts],
    )
