"""Watches the attention of the pipeline's own pass, so that what needs no help costs no probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .denoiser import DenoiserCall, is_probed
from .hosts import Host
from .intercept import is_compiled
from .layers import Layer
from .losses import span_attention
from .losses.peak import highest
from .optimizer import Probed
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
        least: how much attention the least attended word of each image had in that pass where it had most, 0
            to 1; infinity for images that the pass left out. None where it was not watched: at the first
            step, and where that cannot be done (compiled code, an attention backend of another kind).
        highest: the same, but the mean of the highest sixteenth of its map (p_s of `attention_peak`).
        seen: what that pass attended to, an entry an image, with no gradient; None where `least` is.
        left_alone: how many guided steps each image was not probed at.
    """

    def __init__(self, host: Host, prober: Prober) -> None:
        self.host, self.prober = host, prober
        self.least: Float[Tensor, "image"] | None = None
        self.highest: Float[Tensor, "image"] | None = None
        self.seen: Probed | None = None
        self.left_alone = [0] * len(prober.spans)
        self._own: OwnPass | None = None
        self._stack = ExitStack()
        self._lent: dict[int, Any] = {}
        self._live: Int[Tensor, "row"] | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block passes may be watched."""
        with self._stack:
            yield

    @property
    def can_watch(self) -> bool:
        """Whether passes may be seen at all, as far as that is known before the first one."""
        return not is_compiled(self.host.called)

    def open(self, call: DenoiserCall, layers: Sequence[Layer], live: Int[Tensor, "row"]) -> None:
        """The pipeline is about to make the first call of a step, for the images `live`: watch it."""
        if not layers or not self.can_watch:
            return
        rows = self.host.conditional_rows(len(call.sample))
        first = rows.start // self.host.images * len(live)
        if self._own is None:
            self._own = OwnPass(call, self.prober.layers(layers), rows)
        self._own.forget()
        self._own.rows, self._own.watching = slice(first, first + len(live)), True
        self._live = live
        observe(self._own, self._stack, self._lent)

    def close(self) -> None:
        """What comes now is no longer that call."""
        if self._own is not None:
            self._own.watching = False

    def begin(self) -> None:
        """The pipeline's call begins."""
        self.close()
        self.least = self.highest = self.seen = None

    def judge(self, earlier: Probed | None = None) -> None:
        """Find how much attention each image had in the call that was watched before this step.

        `earlier` is what was seen of the images that this call left out.
        """
        self.begin()
        if self._own is None or not self._own.complete or self._live is None:
            return
        maps, prober, live = self._own.maps, self.prober, self._live
        self._own.forget()
        words = span_attention(maps, *prober.of(live.tolist()))
        found = prober.look(maps, live.tolist())
        live = live.to(found.losses.device)
        self.least, self.highest = (
            found.losses.new_full((self.host.images,), math.inf).index_put((live,), had)
            for had in (_least(words, _peaks), _least(words, highest))
        )
        self.seen = found
        if earlier is not None and len(live) < self.host.images:
            self.seen = earlier.copy()
            self.seen.put(live, found)

    def forget(self, rows: Int[Tensor, "row"]) -> None:
        """These images begin anew."""
        for row in rows.tolist():
            self.left_alone[row] = 0

    def spare(self, probed: Sequence[int], live: Sequence[int]) -> None:
        """Count the images that are left alone at a guided step, of those that are denoised at it."""
        for image in set(live) - set(probed):
            self.left_alone[image] += 1


def _peaks(image: Float[Tensor, "span height width"]) -> Float[Tensor, "span"]:
    return image.flatten(1).amax(1)


def _least(
    words: Sequence[Float[Tensor, "_span height width"]], measure: Callable[[Tensor], Tensor]
) -> Float[Tensor, "row"]:
    """Of each image the least of its words; 1 for one without words."""
    return torch.stack([measure(image).amin() if len(image) else image.new_ones(()) for image in words])
