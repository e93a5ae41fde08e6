"""Watches the attention of the pipeline's own pass, so that what needs no help costs no probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .denoiser import DenoiserCall, is_probed
from .hosts import Host
from .intercept import is_compiled
from .layers import Layer
from .losses import span_attention
from .optimizer import Probed, Schedule
from .prober import Prober
from .processors import Recorder, observe, probabilities


class OwnPass(Recorder):
    """Keeps what the prompts' own rows attend to while the pipeline calls its denoiser; probes are not seen.

    It costs the attention probabilities of a few small layers, without a graph.

    Attributes:
        rows: which rows of the batch are the prompts' own.
        watching: whether the call that runs is to be seen.
    """

    insists = False  # what the pipeline's own backend hides is looked at by probes

    def __init__(self, call: DenoiserCall, layers: Sequence[Layer], rows: slice) -> None:
        super().__init__(layers, call.grid, call.text_length)
        self.denoiser, self.rows, self.watching = call.module, rows, True

    def layer_of(self, module: object) -> Layer | None:
        """The layer that a module's attention is to be filed under; None while nothing is to be seen."""
        return super().layer_of(module) if self.watching and not is_probed(self.denoiser) else None

    def see(
        self, layer: Layer, query: Tensor, key: Tensor, scale: float | None, mask: Tensor | None = None
    ) -> None:
        """Told of one layer's queries and keys, (row, heads, position, channel), of the whole batch."""
        if mask is not None and mask.ndim == 4 and mask.shape[0] > 1:
            mask = mask[self.rows]
        with torch.no_grad():
            found = probabilities(query[self.rows].detach(), key[self.rows].detach(), scale, mask)
        super().keep(layer, found)

    def keep(self, layer: Layer, probabilities: Tensor) -> None:
        """File one layer's probabilities of the whole batch."""
        super().keep(layer, probabilities[self.rows].detach())


class Watcher:
    """Tells which images of a run are neglected, from the pipeline's own last pass.

    Attributes:
        neglected: the numbers of the images that a probe must look at; None for all of them, which is so at
            the first step, without `Schedule.enough`, and where the pass cannot be watched (compiled code, an
            attention backend of another kind).
        seen: what that pass attended to, an entry an image, with no gradient; None where `neglected` is.
        left_alone: how many guided steps each image was not probed at.
    """

    def __init__(self, host: Host, prober: Prober, schedule: Schedule) -> None:
        self.host, self.prober, self.schedule = host, prober, schedule
        self.neglected: Int[Tensor, "row"] | None = None
        self.seen: Probed | None = None
        self.left_alone = [0] * len(prober.spans)
        self._own: OwnPass | None = None
        self._stack = ExitStack()
        self._lent: dict[int, Any] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block passes may be watched."""
        with self._stack:
            yield

    def open(self, call: DenoiserCall, layers: Sequence[Layer]) -> None:
        """The pipeline is about to make the first call of a step: watch it."""
        if not self.schedule.enough or not layers or is_compiled(self.host.called):
            return
        rows = self.host.conditional_rows(len(call.sample))
        if self._own is None:
            self._own = OwnPass(call, self.prober.layers(layers), rows)
        self._own.forget()
        self._own.rows, self._own.watching = rows, True
        observe(self._own, self._stack, self._lent)

    def close(self) -> None:
        """What comes now is no longer that call."""
        if self._own is not None:
            self._own.watching = False

    def judge(self, index: int) -> None:
        """Find who is neglected at the step of this index, from the call that was watched before it."""
        self.close()
        self.neglected = self.seen = None
        enough = self.schedule.enough_at(index, self.host.steps)
        if self._own is None or not self._own.complete or enough is None:
            return
        maps, prober = self._own.maps, self.prober
        self._own.forget()
        words = span_attention(maps, prober.spans, prober.last)
        least = torch.stack(
            [image.flatten(1).amax(1).amin() if len(image) else image.new_ones(()) for image in words]
        )
        self.neglected = (least < enough).nonzero().flatten()
        self.seen = prober.look(maps)

    def spare(self) -> None:
        """Count the images that are left alone at a guided step."""
        if self.neglected is not None:
            probed = set(self.neglected.tolist())
            self.left_alone = [count + (i not in probed) for i, count in enumerate(self.left_alone)]
