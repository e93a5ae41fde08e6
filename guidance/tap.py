"""Takes attention out of the pipeline's own pass as it comes, and keeps no more of it than sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .denoiser import is_probed
from .errors import UnsupportedError
from .layers import Grid, Layer
from .processors import Recorder, probabilities
from .sums import AttentionSums

_LARGEST_PORTION = 2**22  # scores computed at once: 16 MiB of float32


class Tap(Recorder):
    """Takes the attention of the conditional rows as it comes and adds it to sums, some heads at a time."""

    def __init__(
        self, denoiser: Any, layers: Sequence[Layer], latents_grid: Grid, tokens: int, sums: AttentionSums
    ) -> None:
        super().__init__(layers, latents_grid, tokens)
        self.denoiser, self.sums, self.rows = denoiser, sums, slice(0)
        self.running = False

    def begin_anew(self) -> None:
        """The pipeline's call was given up, and is made again: nothing of it counts."""
        self.running = False
        self.sums.empty()

    def begin(self, rows: slice) -> None:
        """The pipeline is about to call its denoiser; `rows` of its batch are conditional."""
        self.rows, self.running = rows, True
        self.sums.begin_step()

    def end(self) -> None:
        """The call has ended.

        Raises:
            UnsupportedError: a layer took no part in it.
        """
        self.running = False
        for layer in self.layers.values():
            if layer.name not in self.sums.seen:
                raise UnsupportedError(
                    f"{layer.name} took no part in this pass of the denoiser: there is no attention to record"
                )
        self.sums.end_step()

    def layer_of(self, module: Any) -> Layer | None:
        """The layer that a module's attention is to be filed under; None while a probe runs."""
        return super().layer_of(module) if self.running and not is_probed(self.denoiser) else None

    def see(
        self, layer: Layer, query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None = None
    ) -> None:
        """Add one layer's attention from its queries and keys, (row, heads, position, channel)."""
        query, key = query.detach()[self.rows], key.detach()[self.rows]
        if mask is not None and mask.ndim == 4 and mask.shape[0] > 1:
            mask = mask[self.rows]
        self._check_positions(layer, query.shape[2])
        self._add(layer, _portions(query, key, scale, mask))

    def keep(self, layer: Layer, probabilities: Tensor) -> None:
        """Add one layer's attention that was computed already, (row, heads, position, token)."""
        self._check_positions(layer, probabilities.shape[2])
        self._add(layer, iter([probabilities.detach()[self.rows]]))

    def _add(self, layer: Layer, portions: Iterator[Tensor]) -> None:
        with torch.no_grad():
            self.sums.add(layer.name, layer.grid(self.latents_grid), portions)


def _portions(query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None) -> Iterator[Tensor]:
    """The probabilities of a few heads at a time, so that no large tensor is ever held."""
    at_once = max(1, _LARGEST_PORTION // (len(query) * query.shape[2] * key.shape[2]))
    for at in range(0, query.shape[1], at_once):
        some = slice(at, at + at_once)
        yield probabilities(query[:, some], key[:, some], scale, _cut(mask, some))


def _cut(mask: Tensor | None, heads: slice) -> Tensor | None:
    """The part of a mask (row, heads, position, token) that belongs to some heads."""
    return mask if mask is None or mask.ndim < 4 or mask.shape[1] == 1 else mask[:, heads]
