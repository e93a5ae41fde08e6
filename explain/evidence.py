"""What one forward of a model leaves for the methods: attention, its gradients and tokens, row by row.

A row is one score that is explained. Where one image serves several rows (a CLIP image against many texts)
its tower is run once, and only the backward is made for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .capture import capture
from .errors import CaptureError
from .models.family import Family, Reading, Target
from .rules import RowAccumulator, position
from .wiring import Readout, Site

HELD_BYTES: Final = 2**28
"""How much gradient of a shared stream is held at once: 256 MiB."""
Maps = dict[Site, Float[Tensor, "row _ _ _"]]
"""By site (row, head, query, key)."""


class Evidence:
    """A forward of `model` under capture, and what is asked of it afterwards.

    Args:
        inputs: what the model takes, on its device.
        mode: entered around the forward; `lrp()` makes the gradients relevances, `libra()` changes them.
        watch: modules whose outputs are wanted, in the graph; one below which all is frozen becomes a leaf.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        inputs: Mapping[str, Any],
        target: Target = None,
        *,
        mode: AbstractContextManager[Any] | None = None,
        watch: tuple[str, ...] = (),
    ) -> None:
        family.check(model, inputs)
        self.model, self.family, self.inputs = model, family, inputs
        self.wiring = family.wiring(model)
        watched = tuple(dict.fromkeys((*family.watches(model), *watch)))
        with mode or nullcontext(), capture(model, family.sites(model), watch=watched) as self.seen:
            self.outputs = model(**inputs)
        with torch.enable_grad():  # out of the mode: it changes the model's own softmax, not a user's score
            self.reading: Reading = family.read(model, inputs, self.outputs, self.seen, target)
        self.rows = len(self.reading.scores)
        self._own: Maps = {}
        self._shared: tuple[slice, Maps] = slice(0, 0), {}

    def chunks(self, readout: Readout) -> Iterator[slice]:
        """The rows in portions: all at once, unless gradients of a shared stream would fill the memory."""
        held = sum(self.seen.attention[site].numel() * 4 for site in self.sites_of(readout))
        step = max(1, HELD_BYTES // held) if self.is_shared(readout) else self.rows
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def sites_of(self, readout: Readout) -> tuple[Site, ...]:
        """The attentions that a readout can see, its pooling one included."""
        pool = () if readout.pool is None else (readout.pool,)
        return (*self.wiring.part(readout.stream).sites, *pool)

    def attention(self, sites: tuple[Site, ...], rows: slice) -> Maps:
        """The probabilities of these rows, out of the graph."""
        return {site: self._of_rows(self.seen.attention[site].detach(), rows) for site in sites}

    def gradients(self, sites: tuple[Site, ...], rows: slice) -> Maps:
        """d score / d probabilities of these rows (under `lrp()` the relevance of the probabilities)."""
        shared = self._sites(shared=True)
        if shared and self._shared[0] != rows:
            found = self.seen.gradients(self.reading.scores, shared, grad_outputs=self._basis[rows])
            self._shared = rows, {site: each[:, 0] for site, each in found.items()}
        if not self._own and (own := self._sites(shared=False)):
            basis = self._basis if self._is_coupled else None
            found = self.seen.gradients(self.reading.scores, own, grad_outputs=basis)
            self._own = {
                site: self._own_rows(each) if self._is_coupled else each for site, each in found.items()
            }
        return {s: self._shared[1][s] if s in self._shared[1] else self._own[s][rows] for s in sites}

    def row_relevance(
        self, readout: Readout, start_layer: int, *, fusion: str, signed: bool
    ) -> Tensor | None:
        """The row of the generic rule, carried during one backward that stores no gradient.

        None where it cannot be had so: several streams, a shared stream, coupled rows, probabilities that are
        leaves each, out of each other's way (Libra), or gradients that are finite at no scale.
        """
        part = self.wiring.part(readout.stream)
        if not part.is_plain or self.is_shared(readout) or self._is_coupled:
            return None
        first = position(start_layer, len(part.steps), f"layer of stream {readout.stream!r}")
        maps = [self.seen.attention[site] for site in self.sites_of(readout)][first:]
        if any(each.is_leaf for each in maps[1:]):
            return None
        self.seen.check()
        pooled, scores = readout.pool is not None, self.reading.scores
        weights = readout.weights.to(maps[0])
        settings: dict[str, Any] = {"pooled": pooled, "fusion": fusion, "signed": signed}
        for scale in self.seen.scales:
            with RowAccumulator(maps, weights, scale=scale, **settings) as carried:
                torch.autograd.grad(scores, maps[0], torch.full_like(scores, scale), retain_graph=True)
            if torch.isfinite(carried.relevance).all():
                return carried.relevance
        return None

    def gradient_of(self, scores: Tensor, inner: Tensor, shared: bool) -> Float[Tensor, "row *_"]:
        """d score / d an inner tensor whose batch are the rows, or is one that all rows share."""
        each = shared or self._is_coupled
        weights = (self._basis if each else torch.ones_like(scores)).to(scores.dtype)
        for scale in self.seen.scales:
            (found,) = torch.autograd.grad(
                scores,
                inner,
                weights * scale,
                retain_graph=True,
                is_grads_batched=each,
                materialize_grads=True,
            )
            found = (found[:, 0] if shared else self._own_rows(found) if each else found).float() / scale
            if torch.isfinite(found).all():
                return found
        raise CaptureError("the gradient is not finite: float16 overflows here. Use bfloat16 or float32")

    def is_shared(self, readout: Readout) -> bool:
        """Whether the readout's stream was encoded once for several rows."""
        return self.rows > 1 and readout.stream in self.reading.shared

    @property
    def _basis(self) -> Float[Tensor, "row row"]:
        return torch.eye(self.rows, device=self.reading.scores.device)

    @property
    def _is_coupled(self) -> bool:
        """Whether a sum of scores would mix what the rows rest on."""
        return self.reading.coupled and self.rows > 1

    def _own_rows(self, found: Tensor) -> Tensor:
        """Of the gradient of every score by every row's item that by its own."""
        own = torch.arange(self.rows, device=found.device)
        return found[own, own]

    def _sites(self, *, shared: bool) -> tuple[Site, ...]:
        seen = {site: self.is_shared(each) for each in self.reading.readouts for site in self.sites_of(each)}
        return tuple(site for site in self.seen.attention if seen.get(site) is shared)

    def _of_rows(self, maps: Tensor, rows: slice) -> Tensor:
        if len(maps) == 1 and self.rows > 1:
            return maps.expand(rows.stop - rows.start, *maps.shape[1:])
        return maps[rows]
