"""Looks at latents through an objective: the denoiser's attention, its loss, and the gradient of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .calls import repeated
from .denoiser import DenoiserCall
from .hosts import Host
from .layers import Layer
from .limits import Latents
from .maps import AttentionMaps
from .objectives import Objective
from .optimizer import Probed
from .tokens import Span

_HALF_PRECISION_LOSS_SCALE = 1024.0


class Prober:
    """What an objective wants of each image of a pipeline's call, and what probes find of it.

    Attributes:
        objective: whose loss is taken.
        spans, last: the words of each image, and where its prompt ends.
        counts: how often each image was probed so far.
    """

    def __init__(self, objective: Objective, host: Host, spans: Sequence[Sequence[Span]]) -> None:
        """Everything the losses need is found and checked; `spans` are those of each prompt."""
        self.objective, self.host = objective, host
        last = objective.last(host.tokenizer, host.prompts)
        self.spans = repeated(spans, host.repeats)
        self.counts = [0] * len(self.spans)
        self.last = None if last is None else repeated(last, host.repeats)
        context = objective.context(host.tokenizer, host.prompts, spans)
        self.context = {name: repeated(found, host.repeats) for name, found in context.items()}

    def layers(self, chosen: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers to record: those chosen and, where a loss needs it, the self-attention beside them.

        Raises:
            UnsupportedError: self-attention is needed, and there is none.
        """
        if "self_attention" not in self.objective.needs:
            return tuple(chosen)
        return (*chosen, *self.host.self_attention(chosen))

    def probe(
        self,
        call: DenoiserCall,
        layers: Sequence[Layer],
        previous: Sequence[Tensor] | None,
        latents: Latents,
        rows: Tensor,
    ) -> Probed:
        """What the images numbered `rows` attend to; `previous` are all images' maps of the step before."""
        chosen = rows.tolist()
        spans, last = self.of(chosen)
        part = call if len(chosen) == len(call.sample) else call.rows(rows)
        for row in chosen:
            self.counts[row] += 1
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_(True)
            maps = part.attention(leaf, layers)
            losses = self.objective.loss(maps, spans, last, **self._context(chosen, previous))
            gradient = _gradient(losses, leaf, part.sample.dtype)
        movable = self.host.movable()
        if movable is not None:
            gradient = gradient * (movable if len(movable) == 1 else movable[rows]).to(gradient)
        finite = gradient.flatten(1).isfinite().all(1) & losses.isfinite()
        gradient = torch.where(finite[:, None, None, None], gradient, 0.0)
        with torch.no_grad():
            word_maps = [image.detach() for image in self.objective.word_maps(maps, spans, last)]
        return Probed(losses.detach(), gradient, finite, word_maps)

    def of(self, chosen: Sequence[int]) -> tuple[list[tuple[Span, ...]], list[Any] | None]:
        """The words of some images, and where their prompts end."""
        last = None if self.last is None else [self.last[row] for row in chosen]
        return [self.spans[row] for row in chosen], last

    def look(self, maps: AttentionMaps, chosen: Sequence[int]) -> Probed:
        """What the images numbered `chosen` attend to in maps that were recorded without a graph."""
        spans, last = self.of(chosen)
        with torch.no_grad():
            losses = self.objective.loss(maps, spans, last, **self._context(chosen, None))
            word_maps = list(self.objective.word_maps(maps, spans, last))
        none = losses.new_zeros((len(losses), 1, 1, 1))
        return Probed(losses, none, losses.isfinite(), word_maps)

    def _context(self, chosen: Sequence[int], previous: Sequence[Tensor] | None) -> dict[str, Any]:
        context: dict[str, Any] = {
            name: [found[row] for row in chosen] for name, found in self.context.items()
        }
        if "previous" in self.objective.needs:
            context["previous"] = [previous[row] for row in chosen] if previous else None
        return context


def _gradient(losses: Tensor, leaf: Latents, weights: torch.dtype) -> Latents:
    """Gradient of each image's loss, scaled up on its way through float16, where small ones vanish."""
    if not losses.requires_grad:
        return torch.zeros_like(leaf)
    factor = _HALF_PRECISION_LOSS_SCALE if weights == torch.float16 else 1.0
    return torch.autograd.grad(losses.sum() * factor, leaf)[0] / factor
